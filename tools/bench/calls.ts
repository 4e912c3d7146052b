/**
 * What the program at the end of system calls costs those who make many: in a container, and in a process of the machine
 * that nobody watches. With all sections in use against none, and against a program that does nothing at the same hook;
 * interleaved; of each loop the fastest of twenty counts.
 */
import { execFileSync } from "node:child_process";
import { resolve } from "node:path";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { until } from "../demo/until.ts";
import { AgentRig } from "../sandbox/agent-rig.ts";
import { testProgram } from "../sandbox/programs.ts";
import { attachEmptyProgram, buildEmptyProgram } from "./empty-program.ts";
import { halfInterval, mean, percentile, printTable } from "./statistics.ts";

const ROUNDS = Number(process.env["ROUNDS"] ?? 10);
const CALLS = 100_000;
const ALL = {
  process: { effect: Effect.ALERT },
  network: { effect: Effect.ALERT, detectors: { raw_socket: {} } },
  dns: { effect: Effect.ALERT },
  filesystem: { effect: Effect.ALERT },
  syscall: { effect: Effect.ALERT },
};
const NONE = { scope: { containers: ["none"] } };

const content = testProgram("callprobe");
const onHost = resolve(import.meta.dirname, "../../.cache/programs/callprobe");

await using rig = await AgentRig.open(`calls-${process.pid}`, LearningState.LEARNING);
await rig.rules(ALL);
const container = rig.sandbox.start("bench", {
  args: ["/bin/sleep", "3600"],
  programs: ["/bin/sleep"],
  files: { "/opt/callprobe": { content, mode: 0o755 } },
});
const watched = await rig.watched("bench");

type Loop = "getppid" | "bytes";
const LOOPS: readonly (readonly [string, Loop, (loop: Loop) => Promise<number>])[] = (
  [
    ["getppid", "getppid"],
    ["read or write of one byte", "bytes"],
  ] as const
).flatMap(([name, loop]) => [
  [
    `${name}, in the container`,
    loop,
    async () => Number((await container.exec("/opt/callprobe", "loop", loop, String(CALLS))).output),
  ],
  [
    `${name}, in a process of the machine`,
    loop,
    async () => Number(execFileSync(onHost, ["loop", loop, String(CALLS)]).toString()),
  ],
]);

for (const [, loop, run] of LOOPS) await run(loop);
await until("everything to be learned", 10_000, () => (watched.events ? true : undefined));
await watched.events.idle();
await rig.activate(LearningState.ACTIVE);
buildEmptyProgram();
const off = LOOPS.map((): number[] => []);
const empty = LOOPS.map((): number[] => []);
const on = LOOPS.map((): number[] => []);
async function sample(samples: readonly number[][]): Promise<void> {
  for (const [i, [, loop, run]] of LOOPS.entries()) samples[i]?.push(await run(loop));
}
for (let round = 0; round < ROUNDS; round += 1) {
  await rig.rules(NONE);
  await sample(off);
  {
    await using _program = await attachEmptyProgram();
    await sample(empty);
  }
  await rig.rules(ALL);
  await sample(on);
}
function more(samples: readonly number[], without: readonly number[]): string {
  const differences = samples.map((ns, at) => ns - (without[at] ?? Number.NaN));
  return `${mean(differences).toFixed(0)} ± ${halfInterval(differences).toFixed(0)}`;
}
printTable(`ns a system call, model active (${ROUNDS} interleaved rounds)`, [
  ["", "without", "empty program", "more (95 %)", "all sections", "more (95 %)"],
  ...LOOPS.map(([name], i) => {
    const [without = [], withEmpty = [], withAll = []] = [off[i], empty[i], on[i]];
    const median = (samples: readonly number[]) => percentile(samples, 0.5).toFixed(0);
    return [
      name,
      median(without),
      median(withEmpty),
      more(withEmpty, without),
      median(withAll),
      more(withAll, without),
    ];
  }),
]);
