import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { resolve } from "node:path";

const ROOT = resolve(import.meta.dirname, "..");

function hasCommand(name: string): boolean {
  return (
    spawnSync("sh", ["-c", `command -v ${name}`], {
      env: { ...process.env, PATH: `${process.env["PATH"]}:/usr/sbin:/sbin` },
    }).status === 0
  );
}

/** What tests may need of the machine: each answers why it is missing, or nothing. */
const NEEDS = {
  root: () => (process.getuid?.() === 0 ? "" : "not root"),
  linux: () => (process.platform === "linux" ? "" : "not Linux"),
  runc: () => (hasCommand("runc") ? "" : "runc is not installed"),
  nats: () => (hasCommand("nats-server") ? "" : "nats-server is not installed"),
  nmap: () => (hasCommand("nmap") ? "" : "nmap is not installed"),
  iptables: () => (hasCommand("iptables") ? "" : "iptables is not installed"),
  bpftool: () => (hasCommand("bpftool") ? "" : "bpftool is not installed"),
  disks: () => (hasCommand("losetup") && existsSync("/dev/loop-control") ? "" : "no loop devices"),
  sensor: () => (existsSync(resolve(ROOT, ".cache/sensor/gabion-sensor")) ? "" : "the sensor is not built"),
  busybox: () => (existsSync(resolve(ROOT, ".cache/busybox/bin/busybox")) ? "" : "no static busybox was unpacked"),
  cgroup2: () => (readFileSync("/proc/self/mounts", "utf8").includes(" cgroup2 ") ? "" : "cgroup v2 is not mounted"),
  cgroup1: () => (/^nodev\tcgroup$/m.test(readFileSync("/proc/filesystems", "utf8")) ? "" : "no cgroup v1"),
  mongodb: () => (mongoServer() === undefined ? "no MongoDB-compatible server" : ""),
} as const;

export type Need = keyof typeof NEEDS;

/** Where a MongoDB-compatible server comes from: a URL, a `mongod`, or the one that the set-up builds. */
export function mongoServer():
  | { readonly url: string }
  | { readonly binary: string; readonly isMongod: boolean }
  | undefined {
  const url = process.env["GABION_TEST_MONGODB_URL"];
  if (url) return { url };
  if (hasCommand("mongod")) return { binary: "mongod", isMongod: true };
  const built = resolve(ROOT, ".cache/mongo-server/mongo-server");
  return existsSync(built) ? { binary: built, isMongod: false } : undefined;
}

/**
 * Why tests that need all of these cannot run here; empty where they can. Under `GABION_REQUIRE=all` nothing may be
 * missing: then it throws.
 */
export function missing(...needs: readonly Need[]): string {
  const reasons = needs.map((need) => NEEDS[need]()).filter(Boolean);
  const reason = reasons.join(", ");
  if (reason !== "" && process.env["GABION_REQUIRE"] === "all") throw new Error(`required here, but: ${reason}`);
  if (reason !== "") process.stderr.write(`skipped: ${reason}\n`);
  return reason;
}

/** What everything with containers needs. */
export const CONTAINERS: readonly Need[] = ["linux", "root", "runc", "sensor", "busybox", "cgroup2"];
