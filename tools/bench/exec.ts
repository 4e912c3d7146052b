/**
 * What an exec costs: a vfork+exec+wait loop of a tiny static program in one container, without Gabion, while learning
 * (every exec is sent) and while active and known-good (only counted), interleaved. And of 10,000 execs of a denied
 * program how many ran an instruction: it begins with an illegal one, so that running shows as SIGILL, not SIGKILL.
 */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { until } from "../demo/until.ts";
import { AgentRig } from "../sandbox/agent-rig.ts";
import { testProgram } from "../sandbox/programs.ts";
import { Sandbox, type SandboxContainer } from "../sandbox/runc.ts";
import { halfInterval, mean, percentile, printTable } from "./statistics.ts";

const ROUNDS = Number(process.env["ROUNDS"] ?? 8);
const EXECS = 4_000;
const DENIED = 10_000;

interface Spawned {
  readonly killed: number;
  readonly trapped: number;
  readonly clean: number;
  readonly ns: number;
}

async function spawnIn(container: SandboxContainer, count: number, program: string): Promise<Spawned> {
  const { output } = await container.exec("/opt/spawn", String(count), "0", program);
  return JSON.parse(output) as Spawned;
}

async function perExec(container: SandboxContainer): Promise<number> {
  return (await spawnIn(container, EXECS, "/opt/nothing")).ns / EXECS / 1_000;
}

await using stack = new AsyncDisposableStack();
const sandbox = stack.use(
  await Sandbox.open(`gabion-bench-${process.pid}`, mkdtempSync(join(tmpdir(), "gabion-bench-"))),
);
const file = (name: Parameters<typeof testProgram>[0]) => ({ content: testProgram(name), mode: 0o755 });
const container = sandbox.start("bench", {
  args: ["/bin/sleep", "600"],
  programs: ["/bin/sleep"],
  files: { "/opt/spawn": file("spawn"), "/opt/nothing": file("nothing"), "/opt/trap": file("trap") },
});
await until("the container to run", 10_000, async () => ((await container.isRunning()) ? true : undefined));

const off: number[] = [];
const learning: number[] = [];
const active: number[] = [];
let kernelNs = 0;
const buckets: number[] = Array(64).fill(0);
let denied: Spawned = { killed: 0, trapped: 0, clean: 0, ns: 0 };
for (let round = 0; round < ROUNDS; round += 1) {
  off.push(await perExec(container));
  await using rig = await AgentRig.over(sandbox, LearningState.LEARNING);
  await rig.rules({ process: { effect: Effect.ALERT, denied: [{ process: "/opt/trap" }] } });
  const watched = await rig.watched("bench");
  await perExec(container);
  learning.push(await perExec(container));
  await rig.learned("/opt/nothing");
  // What learning left to do is not what watching costs.
  const begin = performance.now();
  await watched.events.idle();
  if (process.env["DEBUG"]) process.stderr.write(`backlog ${(performance.now() - begin).toFixed(0)} ms\n`);
  await rig.activate(LearningState.ACTIVE);
  const stats = () => rig.agent.stats;
  await until("counters", 5_000, stats);
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  const before = stats();
  active.push(await perExec(container));
  const after = await until("counters to move", 5_000, () => {
    const now = stats();
    return now && before && now.decideCount >= before.decideCount + BigInt(EXECS) ? now : undefined;
  });
  kernelNs = before ? Number(after.decideNs - before.decideNs) / Number(after.decideCount - before.decideCount) : 0;
  after.decideBuckets.forEach((count, i) => {
    buckets[i] = (buckets[i] ?? 0) + Number(count - (before?.decideBuckets[i] ?? 0n));
  });
  if (round === ROUNDS - 1) {
    // By its name: what is denied by its path is refused before it gets this far.
    await rig.rules({
      process: { effect: Effect.PREVENT, denied: [{ process: "trap" }], allowed: [{ process: "/opt/nothing" }] },
    });
    denied = await spawnIn(container, DENIED, "/opt/trap");
  }
}

const row = (name: string, samples: readonly number[]) => {
  const differences = samples.map((sample, i) => sample - (off[i] ?? 0));
  const cost = samples === off ? "" : `${mean(differences).toFixed(1)} ± ${halfInterval(differences).toFixed(1)}`;
  return [
    name,
    percentile(samples, 0.5).toFixed(1),
    cost,
    (percentile(samples, 0.5) / percentile(off, 0.5)).toFixed(2),
  ];
};
printTable(`vfork + exec + wait of a tiny static program, µs each (${ROUNDS} interleaved rounds of ${EXECS})`, [
  ["", "median", "cost against without (95 %)", "ratio"],
  row("without Gabion", off),
  row("learning: every exec sent", learning),
  row("active: known-good, counted", active),
]);
/** Upper end of the bucket below which a share of the decisions lies. */
function bucketAt(share: number): number {
  const wanted = share * buckets.reduce((a, b) => a + b, 0);
  let sum = 0;
  for (const [i, count] of buckets.entries()) {
    sum += count;
    if (sum >= wanted) return (i + 1) * 64;
  }
  return Number.NaN;
}
printTable(
  "known-good exec in the kernel program by its own clock, ns (limit 1000; one reading of the clock included)",
  [
    ["p10 below", "p50 below", "p90 below", "mean"],
    [bucketAt(0.1), bucketAt(0.5), bucketAt(0.9), Math.round(kernelNs)].map(String),
  ],
);
printTable(`${DENIED} execs of a denied program whose first instruction is illegal`, [
  ["killed before it", "ran it"],
  [String(denied.killed), String(denied.trapped)],
]);
