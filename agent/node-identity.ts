import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { hostname } from "node:os";

/** Identity of this node where none is configured: the host's name and a digest of its machine id. */
export function defaultNodeId(): string {
  const name =
    hostname()
      .replace(/[^A-Za-z0-9-]/g, "-")
      .replace(/^-+/, "")
      .slice(0, 64) || "node";
  let machine = "";
  try {
    machine = readFileSync("/etc/machine-id", "utf8").trim();
  } catch {
    // A machine without an id is told apart by its name alone.
  }
  return machine === ""
    ? name
    : `${name}-${createHash("sha256").update(`gabion ${machine}`).digest("hex").slice(0, 8)}`;
}

/** The kernel's boot id. */
export function bootId(): string {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  } catch {
    return "unknown";
  }
}

/** Where cgroup v2 is mounted: alone at the usual place, or beside version 1. Undefined where it is not. */
export function cgroupMount(): string | undefined {
  try {
    const lines = readFileSync("/proc/self/mounts", "utf8").split("\n");
    return lines.map((line) => line.split(" ")).find(([, , type]) => type === "cgroup2")?.[1];
  } catch {
    return undefined;
  }
}
