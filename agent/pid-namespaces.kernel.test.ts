import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Delivery, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";
import { type SandboxContainer, unifiedMount } from "../tools/sandbox/runc.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const PROBE = "/opt/netprobe";
const options = {
  args: ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"],
  programs: ["/bin/sh", "/bin/sleep"],
  files: { [PROBE]: { content: testProgram("netprobe"), mode: 0o755 } },
};
const blocking = (name: string) => ({
  scope: { containers: [name] },
  process: { effect: Effect.ALERT },
  network: { effect: Effect.BLOCK, denied: { outboundPorts: [{ first: 4444, last: 4444 }] } },
});

/** Does what ends a container, and looks at what is said and left of it. */
async function block(rig: AgentRig, container: SandboxContainer): Promise<void> {
  const { id } = container;
  const { cgroup } = await rig.watched(id);
  await rig.rules(blocking(id));
  await container.exec(PROBE, "tcp", "203.0.113.5", "4444");
  await container.ended;
  const audit = await rig.audited(id, (a) => a.message.includes("tcp/4444") && a.container?.containerId === id);
  expect(audit.delivery).toBe(Delivery.DENIED);
  expect(audit.deliveryNote).toContain("container stopped through its control group");
  expect(() => readFileSync(join(unifiedMount(), cgroup.path, "cgroup.procs"))).toThrow();
}

onKernel("a container with the machine's processes is stopped by its control group, and nobody else is", async () => {
  await using rig = await AgentRig.open("hostpids", LearningState.LEARNING);
  const other = rig.sandbox.start("other", { ...options, ownsPidNamespace: false });
  const web = rig.sandbox.start("web", { ...options, ownsPidNamespace: false });
  await Promise.all([rig.watched("web"), rig.watched("other")]);
  // In a group of processes of its own, so that the end of the first is not the end of all.
  void web.exec("/bin/sh", "-c", "/bin/sleep 100 & /bin/sleep 101 & wait");
  await block(rig, web);
  expect(await other.isRunning()).toBe(true);
});

onKernel(
  "of two containers that share their processes the one that is blocked ends, and the other goes on",
  async () => {
    await using rig = await AgentRig.open("shared", LearningState.LEARNING);
    const first = rig.sandbox.start("first", options);
    await rig.watched("first");
    await first.exec(PROBE, "ready");
    const joinedPidNamespace = `/proc/${await first.initPid()}/ns/pid`;
    const second = rig.sandbox.start("second", { ...options, joinedPidNamespace });
    await rig.watched("second");
    await block(rig, second);
    expect(await first.isRunning()).toBe(true);
    // Nor is the one whose first process is everybody's taken for the other's owner.
    const third = rig.sandbox.start("third", { ...options, joinedPidNamespace });
    await rig.watched("third");
    await block(rig, first);
    await third.ended;
  },
);
