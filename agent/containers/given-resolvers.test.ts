import { execFileSync } from "node:child_process";
import { appendFileSync, mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { resolversOf } from "#core/detect/resolvers.ts";
import { type BundleMount, GivenResolvers } from "./given-resolvers.ts";

let directory: string;
let rootfs: string;
let resolvConf: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "gabion-resolvers-"));
  rootfs = join(directory, "rootfs");
  resolvConf = join(rootfs, "etc", "resolv.conf");
  mkdirSync(join(rootfs, "etc"), { recursive: true });
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const bind = (destination: string, source: string) => ({ destination, source, type: "bind", options: ["rbind", "ro"] });
const given = (mounts: readonly BundleMount[] = [], root = rootfs, resolvers = new GivenResolvers()) =>
  resolvers.of({ rootfs: root, mounts }, AbortSignal.timeout(5_000));

test("a resolv.conf names its resolvers, each once, and nothing else does", () => {
  const lines = [
    "# nameserver 192.0.2.1",
    "; nameserver 192.0.2.2",
    "search nameserver 192.0.2.3",
    "nameserver 10.96.0.10",
    "nameserver\t10.96.0.10 # again",
    "  nameserver fe80::1%eth0",
    "nameserver fd00::10\r",
    "nameserver resolver.example",
    "nameserver",
    "options ndots:5",
  ];
  expect(resolversOf(lines.join("\n"))).toEqual(["10.96.0.10", "fe80::1", "fd00::10"]);
});

test("where a resolver is named in a form that only the C libraries read, none is known", () => {
  for (const form of ["10.1", "010.0.0.53", "0x0a000035"])
    expect(resolversOf(`nameserver ${form}\nnameserver 192.0.2.1\n`)).toEqual([]);
});

test("what the runtime mounts comes before what the image has", async () => {
  writeFileSync(resolvConf, "nameserver 192.0.2.1\n");
  const mounted = join(directory, "mounted");
  writeFileSync(mounted, "nameserver 192.0.2.2\n");
  const folder = join(directory, "folder");
  mkdirSync(folder);
  writeFileSync(join(folder, "resolv.conf"), "nameserver 192.0.2.3\n");
  expect(await given([bind("/proc", "/proc")])).toEqual(["192.0.2.1"]);
  expect(await given([bind("/etc/resolv.conf", mounted)])).toEqual(["192.0.2.2"]);
  for (const at of ["/etc", "/etc/", "/./etc"]) expect(await given([bind(at, folder)])).toEqual(["192.0.2.3"]);
  expect(await given([bind("/etc", folder), bind("/etc/resolv.conf", mounted)])).toEqual(["192.0.2.2"]);
  expect(await given([{ destination: "/etc", source: "tmpfs", type: "tmpfs", options: [] }])).toEqual([]);
});

test("what a container writes there counts for none that shares the file; a file that is put there counts", async () => {
  const resolvers = new GivenResolvers();
  const mounted = join(directory, "mounted");
  const mounts = [bind("/etc/resolv.conf", mounted)];
  writeFileSync(mounted, "nameserver 192.0.2.2\n");
  expect(await given(mounts, rootfs, resolvers)).toEqual(["192.0.2.2"]);
  appendFileSync(mounted, "nameserver 192.0.2.66\n");
  expect(await given(mounts, rootfs, resolvers)).toEqual(["192.0.2.2"]);
  writeFileSync(`${mounted}-new`, "nameserver 192.0.2.3\n");
  renameSync(`${mounted}-new`, mounted);
  expect(await given(mounts, rootfs, resolvers)).toEqual(["192.0.2.3"]);
});

test("an image leads neither out of itself nor to what never ends, and nobody waits for it", async () => {
  writeFileSync(join(directory, "outside"), "nameserver 192.0.2.9\n");
  expect(await given()).toEqual([]);
  expect(await given([], join(directory, "nothing"))).toEqual([]);
  symlinkSync("../../outside", resolvConf);
  expect(await given()).toEqual([]);
  rmSync(resolvConf);
  symlinkSync("stub", resolvConf);
  writeFileSync(join(rootfs, "etc", "stub"), "nameserver 192.0.2.4\n");
  expect(await given()).toEqual(["192.0.2.4"]);
  expect(await new GivenResolvers().of({ rootfs, mounts: [] }, AbortSignal.abort())).toEqual([]);
  rmSync(resolvConf);
  execFileSync("mkfifo", [resolvConf]);
  expect(await given()).toEqual([]);
});
