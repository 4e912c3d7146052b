import { expect, test } from "vitest";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Delivery, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { until } from "../tools/demo/until.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const PROBE = "/opt/netprobe";
const SENT = 20_000n;

/** What was told of a section, and what was lost of it by the spans, since an observation. */
function accounted(rig: AgentRig, section: Section): bigint {
  return rig.observations.reduce((sum, o) => {
    if (o.kind === "span" && o.value.section === section) return sum + o.value.lostEventCount;
    if (o.kind !== "seen" || o.value.section !== section) return sum;
    return sum + BigInt(o.value.counts.reduce((a, b) => a + b, 0));
  }, 0n);
}

onKernel("what a container does last, before it ends, is told or counted as lost", async () => {
  await using rig = await AgentRig.open("last", LearningState.LEARNING);
  await rig.rules({ process: { effect: Effect.ALERT }, filesystem: { effect: Effect.ALERT } });
  const web = rig.sandbox.start("web", {
    args: [PROBE, "opens", "/tmp/flood", String(SENT)],
    programs: [],
    files: { [PROBE]: { content: testProgram("netprobe"), mode: 0o755 } },
  });
  await web.ended;
  await until("all to add up", 10_000, () => (accounted(rig, Section.FILESYSTEM) >= SENT ? true : undefined));
  expect(accounted(rig, Section.FILESYSTEM)).toBe(SENT);
});

onKernel("what happens as the agent ends is told before it has ended", async () => {
  const rig = await AgentRig.open("ending", LearningState.LEARNING);
  await using _ = rig.sandbox;
  await rig.rules({ process: { effect: Effect.ALERT }, filesystem: { effect: Effect.ALERT } });
  const web = rig.sandbox.start("web", {
    args: ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"],
    programs: ["/bin/sh", "/bin/sleep"],
    files: { [PROBE]: { content: testProgram("netprobe"), mode: 0o755 } },
  });
  await rig.watched("web");
  void web.exec(PROBE, "opens", "/tmp/flood", "100000000");
  await until("files", 10_000, () => (accounted(rig, Section.FILESYSTEM) > 500n ? true : undefined));
  await rig.agent[Symbol.asyncDispose]();
  // The last counters say how many the kernel had seen until then.
  const row = rig.agent.stats?.rows.find(({ section }) => section === Section.FILESYSTEM);
  expect(accounted(rig, Section.FILESYSTEM)).toBe(row?.seen);
});

onKernel("a flood of what is refused takes nobody else's room, and its first is told", async () => {
  await using rig = await AgentRig.open("refused", LearningState.LEARNING);
  await rig.rules({
    process: { effect: Effect.ALERT },
    network: { effect: Effect.PREVENT, denied: { outboundAddresses: ["203.0.113.0/24"] } },
    filesystem: { effect: Effect.PREVENT, denied: ["/etc/passwd"] },
  });
  const options = {
    args: ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"],
    programs: ["/bin/sh", "/bin/sleep", "/bin/mkdir"],
    files: {
      [PROBE]: { content: testProgram("netprobe"), mode: 0o755 },
      "/etc/passwd": { content: "root:x:0:0::/:/bin/sh\n", mode: 0o644 },
    },
  };
  const web = rig.sandbox.start("web", options);
  const container = await rig.watched("web");
  await web.addAddresses("203.0.113.5");
  const other = rig.sandbox.start("other", options);
  const row = (id: bigint, section: Section) =>
    rig.agent.stats?.rows.find((r) => r.cgroupId === id && r.section === section);
  const otherId = (await rig.watched("other")).cgroup.id;
  const { sensorPid } = rig.agent;
  const flood = Promise.all([
    web.exec(PROBE, "flood", "udp", "203.0.113.5", "4000", "100000"),
    web.exec(PROBE, "flood", "udp", "203.0.113.5", "4001", "100000"),
    web.exec(PROBE, "opens", "/etc/passwd", "20000"),
  ]);
  await other.exec("/bin/mkdir", "/seen");
  await rig.learned("/bin/mkdir");
  // A container that is made meanwhile is held and watched as at any other time.
  rig.sandbox.start("third", options);
  await rig.watched("third");
  await flood;
  const tries = 2n * 4n * 100_000n;
  for (const [section, count] of [
    [Section.NETWORK, tries],
    [Section.FILESYSTEM, 20_000n],
  ] as const) {
    const counted = await until(`section ${section} to be counted`, 10_000, () => {
      const found = row(container.cgroup.id, section);
      return found && found.seen >= count ? found : undefined;
    });
    expect(counted.seen).toBe(counted.allowed + counted.emitted + counted.lost);
    expect(counted.throttled).toBeGreaterThan(0n);
  }
  expect(row(otherId, Section.PROCESS)?.lost).toBe(0n);
  expect(rig.agent.sensorPid).toBe(sensorPid);
  await rig.audited("the first refused", (a) => a.delivery === Delivery.DENIED && a.message.includes("4000"));
  await rig.audited("the flood", (a) => a.system?.name === "flooding" && a.container?.containerId === "web");
});
