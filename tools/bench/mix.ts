/**
 * What watching costs a mixed load of nothing but events (programs started that do nothing, HTTP, look-ups, files) in one
 * container: the worst that it can be. `programs.ts` does the same with programs that people run.
 */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { until } from "../demo/until.ts";
import { testProgram } from "../sandbox/programs.ts";
import { Sandbox } from "../sandbox/runc.ts";
import { measureRounds, printRounds } from "./load-rounds.ts";
import { costsOf, type ProgramCost, printCosts } from "./program-costs.ts";
import { halfInterval, mean, percentile, printTable } from "./statistics.ts";

const ROUNDS = Number(process.env["ROUNDS"] ?? 8);
const ADDRESS = "10.0.0.53";
const LOAD = ["/opt/mix", ADDRESS, "1500", "3000", "6000", "6000"];

await using stack = new AsyncDisposableStack();
const directory = mkdtempSync(join(tmpdir(), "gabion-bench-"));
const sandbox = stack.use(await Sandbox.open(`gabion-bench-${process.pid}`, join(directory, "sandbox")));
const file = (name: Parameters<typeof testProgram>[0]) => ({ content: testProgram(name), mode: 0o755 });
const container = sandbox.start("bench", {
  args: ["/bin/sleep", "3600"],
  programs: ["/bin/sleep", "/bin/dd"],
  files: { "/opt/mix": file("mix"), "/opt/nothing": file("nothing") },
});
await container.addAddresses(ADDRESS);

/** ns of each system call of `dd bs=1`, which does little else. */
async function perCall(): Promise<number> {
  const count = 1_000_000;
  const begin = performance.now();
  await container.exec("/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=1", `count=${count}`);
  return ((performance.now() - begin) * 1e6) / (2 * count);
}

const calls: { off: number[]; active: number[] } = { off: [], active: [] };
let costs: ReadonlyMap<string, ProgramCost> = new Map();
const samples = await measureRounds({
  sandbox,
  directory,
  container,
  rounds: ROUNDS,
  withOthers: process.env["OTHERS"] !== "0",
  run: async () => (await container.exec(...LOAD)).output,
  runs: 5,
  teach: async (rig) => {
    await rig.learned("/opt/nothing");
    await until("dd to be learned", 30_000, async () => {
      await container.exec("/bin/dd", "if=/dev/zero", "of=/dev/null", "count=1");
      await (await rig.watched("bench")).events.idle();
      return rig.process("/bin/dd");
    });
  },
  beside: async (setting, round) => {
    if (setting === "off" || setting === "active") calls[setting].push(await perCall());
    if (setting !== "active" || round < ROUNDS - 1) return;
    costs = await costsOf(() => container.exec(...LOAD));
  },
});

const PARTS = { exec: "1,500 execs", http: "3,000 HTTP", dns: "6,000 look-ups", files: "6,000 files", total: "all" };
printRounds("a load of nothing but events, in a container", PARTS, samples);
const extra = calls.active.map((ns, i) => ns - (calls.off[i] ?? 0));
printTable("system calls of `dd bs=1`, ns each (start of the container's process included)", [
  ["without", "active", "more (95 %)"],
  [
    percentile(calls.off, 0.5).toFixed(0),
    percentile(calls.active, 0.5).toFixed(0),
    `${mean(extra).toFixed(0)} ± ${halfInterval(extra).toFixed(0)}`,
  ],
]);
printCosts("kernel programs in that load, active", costs);
