import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { isArmed, ruleOnNode } from "./roll-out.ts";

const nodes = Array.from({ length: 2_000 }, (_, i) => `worker-${i}`);

function rule(stage: number, isHalted = false) {
  return create(RuleSchema, {
    ruleId: "r-1",
    process: {
      effect: Effect.BLOCK,
      detectors: { drift: { effect: Effect.PREVENT }, setuid: { effect: Effect.DISABLE } },
    },
    dns: { effect: Effect.DISABLE },
    network: { effect: Effect.ALERT },
    customRules: [{ name: "c", expression: "true", effect: Effect.PREVENT }],
    rollOut: { percents: [5, 25, 100], stage, isHalted },
  });
}

test("a stage arms its percentage of the nodes, and each later one those and more", () => {
  const armed = [0, 1, 2].map((stage) => nodes.filter((node) => isArmed(rule(stage), node)));
  expect(armed[0]?.length).toBeGreaterThan(60);
  expect(armed[0]?.length).toBeLessThan(140);
  expect(armed[1]?.length).toBeGreaterThan(430);
  expect(armed[1]?.length).toBeLessThan(570);
  expect(armed[2]).toEqual(nodes);
  expect(armed[1]).toEqual(expect.arrayContaining(armed[0] ?? []));
});

test("two rules begin with other nodes", () => {
  const first = nodes.filter((node) => isArmed(rule(0), node));
  const second = nodes.filter((node) => isArmed(create(RuleSchema, { ...rule(0), ruleId: "r-2" }), node));
  expect(first).not.toEqual(second);
});

test("where a roll-out has not come to, and everywhere once it is halted, the rule alerts and does no more", () => {
  const halted = ruleOnNode(rule(2, true), "worker-1");
  expect(halted.process?.effect).toBe(Effect.ALERT);
  expect(halted.process?.detectors["drift"]?.effect).toBe(Effect.ALERT);
  expect(halted.process?.detectors["setuid"]?.effect).toBe(Effect.DISABLE);
  expect(halted.dns?.effect).toBe(Effect.DISABLE);
  expect(halted.customRules[0]?.effect).toBe(Effect.ALERT);
  expect(ruleOnNode(rule(2), "worker-1").process?.effect).toBe(Effect.BLOCK);
});
