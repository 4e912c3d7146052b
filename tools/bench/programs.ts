/**
 * What watching costs programs that people run, in one container: a compiler, an HTTP server under load, a client that looks
 * names up, and files copied. The programs are the container's own, copied from the machine; libraries are mounted.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { Sandbox } from "../sandbox/runc.ts";
import { measureRounds, printRounds, WORK } from "./load-rounds.ts";

const ADDRESS = "10.0.0.53";
const LOAD = ["/opt/node/node", "/opt/load.mjs", ADDRESS, "15", "1500", "1500", "10"];

await using stack = new AsyncDisposableStack();
const directory = mkdtempSync(join(tmpdir(), "gabion-bench-"));
const sandbox = stack.use(await Sandbox.open(`gabion-bench-${process.pid}`, join(directory, "sandbox")));
const text = (content: string | Buffer) => ({ content, mode: 0o644 });
const program = (path: string) => ({ content: readFileSync(path), mode: 0o755 });
const compiler = execFileSync("gcc", ["-print-prog-name=cc1"], { encoding: "utf8" }).trim();
const machines = ["gcc", "as", "ld", "cp", "rm"].map(
  (name) => [`/usr/bin/${name}`, program(`/usr/bin/${name}`)] as const,
);
const container = sandbox.start("bench", {
  args: ["/bin/sleep", "3600"],
  programs: ["/bin/sleep"],
  files: {
    ...Object.fromEntries(machines),
    [compiler]: program(compiler),
    "/opt/node/node": program(process.execPath),
    "/opt/load.mjs": text(readFileSync(resolve(import.meta.dirname, "programs-load.mjs"))),
    "/etc/resolv.conf": text(`nameserver ${ADDRESS}\n`),
    "/etc/hosts": text("127.0.0.1 localhost\n"),
    "/dev/null": text(""),
  },
  readOnlyBinds: {
    "/usr/include": "/usr/include",
    [`${dirname(compiler)}/include`]: `${dirname(compiler)}/include`,
    "/usr/lib/x86_64-linux-gnu": "/usr/lib/x86_64-linux-gnu",
    "/lib": "/usr/lib",
    "/lib64": "/usr/lib64",
  },
});
await container.addAddresses(ADDRESS);
// Tens of thousands of closed connections that wait for their time would make each new one search for a port, the longer
// the later it is measured.
const inNetwork = ["-t", String(await container.initPid()), "-n", "sh", "-c"];
execFileSync("nsenter", [...inNetwork, "echo 64 > /proc/sys/net/ipv4/tcp_max_tw_buckets"]);
const samples = await measureRounds({
  sandbox,
  directory,
  container,
  rounds: Number(process.env["ROUNDS"] ?? 8),
  withOthers: process.env["OTHERS"] !== "0",
  command: LOAD,
  runs: 5,
});
const PARTS = {
  compile: "15 compilations",
  http: "1,500 HTTP",
  dns: "1,500 look-ups",
  copy: "2,000 files",
  total: "all",
  [WORK]: "CPU time",
};
printRounds("programs that people run, in a container", PARTS, samples);
