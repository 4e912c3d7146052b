import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { resolversOf } from "#core/detect/resolvers.ts";
import { givenResolvers } from "./given-resolvers.ts";

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

test("what the runtime mounts comes before what the image has", () => {
  writeFileSync(resolvConf, "nameserver 192.0.2.1\n");
  const mounted = join(directory, "mounted");
  writeFileSync(mounted, "nameserver 192.0.2.2\n");
  const folder = join(directory, "folder");
  mkdirSync(folder);
  writeFileSync(join(folder, "resolv.conf"), "nameserver 192.0.2.3\n");
  expect(givenResolvers(rootfs, [bind("/proc", "/proc")])).toEqual(["192.0.2.1"]);
  expect(givenResolvers(rootfs, [bind("/etc/resolv.conf", mounted)])).toEqual(["192.0.2.2"]);
  expect(givenResolvers(rootfs, [bind("/etc", folder)])).toEqual(["192.0.2.3"]);
  expect(givenResolvers(rootfs, [bind("/etc", folder), bind("/etc/resolv.conf", mounted)])).toEqual(["192.0.2.2"]);
  const memory = { destination: "/etc", source: "tmpfs", type: "tmpfs", options: [] };
  expect(givenResolvers(rootfs, [memory])).toEqual([]);
});

test("an image leads neither out of itself nor to a file that never ends", () => {
  const outside = join(directory, "outside");
  writeFileSync(outside, "nameserver 192.0.2.9\n");
  expect(givenResolvers(rootfs, [])).toEqual([]);
  expect(givenResolvers(join(directory, "nothing"), [])).toEqual([]);
  symlinkSync("../../outside", resolvConf);
  expect(givenResolvers(rootfs, [])).toEqual([]);
  rmSync(resolvConf);
  symlinkSync("stub", resolvConf);
  writeFileSync(join(rootfs, "etc", "stub"), "nameserver 192.0.2.4\n");
  expect(givenResolvers(rootfs, [])).toEqual(["192.0.2.4"]);
  rmSync(resolvConf);
  execFileSync("mkfifo", [resolvConf]);
  expect(givenResolvers(rootfs, [])).toEqual([]);
  rmSync(resolvConf);
  symlinkSync("/dev/zero", resolvConf);
  expect(givenResolvers("/", [bind("/etc/resolv.conf", "/dev/zero")])).toEqual([]);
});
