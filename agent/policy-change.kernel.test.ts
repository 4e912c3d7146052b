import { create } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Section, Transport } from "#gen/gabion/event/v1/event_pb.ts";
import { FactSchema, LearningState, ModelPolicySchema } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { until } from "../tools/demo/until.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const PROBE = "/opt/netprobe";
const FIRST = "203.0.113.5";
const SECOND = "198.51.100.7";
const CHANGES = 40;

describe("from one policy to the next", () => {
  let rig: AgentRig;

  beforeAll(async () => {
    if (missing(...CONTAINERS) === "") rig = await AgentRig.open("change", LearningState.ACTIVE);
  });
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  onKernel("a container gets one or the other whole, never half of each, while rules change all the time", async () => {
    const outbound = { transport: Transport.UDP, port: 9 };
    rig.changeModel(LearningState.ACTIVE, [create(FactSchema, { kind: { case: "outbound", value: outbound } })]);
    const refusing = (name: string, address: string) => ({
      name,
      process: { effect: Effect.ALERT },
      network: { effect: Effect.PREVENT, denied: { outboundAddresses: [address] } },
    });
    const names = ["first", "second"];
    const rules = [refusing("first", FIRST), refusing("second", SECOND)] as const;
    await rig.rules(rules[0]);
    const web = rig.sandbox.start("web", {
      args: ["/bin/sh", "-c", "while true; do /bin/sleep 60; done"],
      programs: ["/bin/sh", "/bin/sleep"],
      files: { [PROBE]: { content: testProgram("netprobe"), mode: 0o755 } },
    });
    await rig.watched("web");
    await web.addAddresses(FIRST, SECOND);
    let said = "";
    const probing = web.exec(PROBE, "alternate", FIRST, SECOND, String(CHANGES)).then(({ output }) => {
      said = output.trim();
    });
    for (let i = 1; said === "" && i < 50 * CHANGES; i += 1) await rig.rules(rules[i % 2 === 0 ? 0 : 1]);
    await probing;
    expect(said).toBe(`${CHANGES} changes, all refused 0, none refused 0`);
    // What was refused is told with the rule that refused it, and with no other.
    const told = await until("audits of both", 10_000, () => {
      const both = rig.audits.filter(({ message }) => message.includes("is denied"));
      return names.every((name) => both.some(({ ruleName }) => ruleName === name)) ? both : undefined;
    });
    for (const { ruleName, message } of told) {
      expect(message).toContain(ruleName === "first" ? FIRST : SECOND);
    }
  });

  onKernel("a section that takes in nothing more says so once, in an audit", async () => {
    const container = await rig.watched("web");
    const { modelKey } = container.message;
    const full = (revision: bigint) =>
      create(ModelPolicySchema, {
        modelKey,
        revision,
        sections: [{ section: Section.DNS, state: LearningState.LEARNING, isFull: true }],
      });
    await rig.agent.applyModel(full(100_000n));
    await rig.agent.applyModel(full(100_001n));
    const told = () => rig.audits.filter(({ event }) => event === undefined).map(({ message }) => message);
    const message = `the dns section of model ${modelKey} is full: new behaviour is not learned any more`;
    await until("the audit", 5_000, () => told().includes(message) || undefined);
    expect(told().filter((each) => each === message)).toHaveLength(1);
  });
});
