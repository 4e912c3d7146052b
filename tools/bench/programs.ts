/**
 * What watching costs programs that people run, in one container: a compiler, an HTTP server under load, a client that looks
 * names up, and files copied. The programs are the container's own, copied from the machine; libraries are mounted.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { Sandbox } from "../sandbox/runc.ts";
import { measureInTurn, printInTurn } from "./in-turn.ts";
import { measureRounds, printRounds, WORK } from "./load-rounds.ts";
import { printCosts } from "./program-costs.ts";

const ADDRESS = "10.0.0.53";
// Little at a time: the machine is faster at one time than at another, and what is compared should lie close together.
// With room for what it throws away, which it collects between the parts: in them that comes when it comes.
const YOUNG = ["--expose-gc", "--min-semi-space-size=64", "--max-semi-space-size=64"];
const LOAD = ["/opt/node/node", ...YOUNG, "/opt/load.mjs", ADDRESS, "2", "150", "150", "1"];

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
// One process for all rounds: how it starts up differs more from time to time than what is to be measured.
const load = await container.open(...LOAD);
const answers = createInterface({ input: load.stdout })[Symbol.asyncIterator]();
const run = async () => {
  load.stdin.write("go\n");
  return (await answers.next()).value ?? "";
};
const samples = await measureRounds({
  sandbox,
  directory,
  container,
  rounds: Number(process.env["ROUNDS"] ?? 60),
  withOthers: process.env["OTHERS"] !== "0",
  run,
  runs: 2,
});
const inTurn = await measureInTurn({ sandbox, container, run, cycles: Number(process.env["CYCLES"] ?? 60) });
load.stdin.end();
const PARTS = {
  compile: "2 compilations",
  http: "150 HTTP",
  dns: "150 look-ups",
  copy: "200 files",
  total: "all",
  [WORK]: "CPU time",
};
printRounds("programs that people run, in a container", PARTS, samples);
printInTurn("the same load", PARTS, inTurn);
const total = [...inTurn.costs.values()].reduce((sum, { ns }) => sum + ns, 0);
const share = (total / (inTurn.costsRun["total"] ?? Number.NaN)) * 100;
printCosts(`kernel programs in one run of it, all sections: ${share.toFixed(1)} % of its time`, inTurn.costs);
