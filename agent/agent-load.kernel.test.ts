import { expect, test } from "vitest";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { until } from "../tools/demo/until.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const IDLE = ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"];
const PROGRAMS = ["/bin/sh", "/bin/sleep", "/bin/true"];

function executable(name: Parameters<typeof testProgram>[0]) {
  return { content: testProgram(name), mode: 0o755 };
}

onKernel("at thousands of execs a second every event is seen or counted as lost", async () => {
  await using rig = await AgentRig.open("flood", LearningState.LEARNING);
  await rig.rules({ process: { effect: Effect.ALERT } });
  const web = rig.sandbox.start("web", {
    args: IDLE,
    programs: PROGRAMS,
    files: { "/opt/spawn": executable("spawn"), "/opt/nothing": executable("nothing") },
  });
  const container = await rig.watched("web");
  const { output } = await web.exec("/opt/spawn", "15000", "5000", "/opt/nothing");
  expect(JSON.parse(output)).toMatchObject({ clean: 15_000 });
  const row = await until("all to be counted", 10_000, () => {
    const found = rig.agent.stats?.rows.find((r) => r.cgroupId === container.cgroup.id);
    return found && found.seen >= 15_000n ? found : undefined;
  });
  expect(row.seen).toBe(row.allowed + row.emitted + row.lost);
  await container.events.idle();
  const counted = () =>
    rig.observations.reduce((sum, o) => sum + (o.kind === "seen" ? o.value.counts.reduce((a, b) => a + b, 0) : 0), 0);
  const lost = () =>
    Number(rig.observations.reduce((sum, o) => sum + (o.kind === "span" ? o.value.lostEventCount : 0n), 0n));
  await until("what was seen and lost to add up", 10_000, () => (counted() + lost() >= 15_000 ? true : undefined));
});

onKernel("a container is held no longer than the bound, and that is told", async () => {
  await using rig = await AgentRig.open("hold", LearningState.LEARNING, { holdMs: 1 });
  const short = rig.sandbox.start("web", { args: ["/bin/true"], programs: PROGRAMS });
  expect((await short.ended).status).toBe(0);
  await rig.audited("the hold", (a) => a.system?.name === "hold_expired");
});

onKernel("what is fetched for a new replica comes into force for those that run already", async () => {
  await using rig = await AgentRig.open("replica", LearningState.LEARNING);
  await rig.rules({ process: { effect: Effect.ALERT } });
  rig.sandbox.start("first", { args: IDLE, programs: PROGRAMS });
  const first = await rig.watched("first");
  await rig.learned("/bin/sleep");
  rig.changeModel(LearningState.ACTIVE);
  rig.sandbox.start("second", { args: IDLE, programs: PROGRAMS });
  const second = await rig.watched("second");
  expect(second.message.modelKey).toBe(first.message.modelKey);
  await until(
    "the first replica to follow",
    10_000,
    () => first.use?.policy.process.state === LearningState.ACTIVE || undefined,
  );
});
