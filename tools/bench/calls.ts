/**
 * What the program at the end of system calls costs those who make many: in a container, and in a process of the machine
 * that nobody watches. With all sections in use against none, interleaved; of each loop the fastest of twenty counts.
 */
import { execFileSync } from "node:child_process";
import { resolve } from "node:path";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { until } from "../demo/until.ts";
import { AgentRig } from "../sandbox/agent-rig.ts";
import { testProgram } from "../sandbox/programs.ts";
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
const off = LOOPS.map((): number[] => []);
const on = LOOPS.map((): number[] => []);
for (let round = 0; round < ROUNDS; round += 1) {
  for (const [rule, samples] of [
    [NONE, off],
    [ALL, on],
  ] as const) {
    await rig.rules(rule);
    for (const [i, [, loop, run]] of LOOPS.entries()) samples[i]?.push(await run(loop));
  }
}
printTable(`ns a system call, model active (${ROUNDS} interleaved rounds)`, [
  ["", "without", "with all sections", "more (95 %)"],
  ...LOOPS.map(([name], i) => {
    const [without = [], withAll = []] = [off[i], on[i]];
    const more = withAll.map((ns, at) => ns - (without[at] ?? Number.NaN));
    return [
      name,
      percentile(without, 0.5).toFixed(0),
      percentile(withAll, 0.5).toFixed(0),
      `${mean(more).toFixed(0)} ± ${halfInterval(more).toFixed(0)}`,
    ];
  }),
]);
