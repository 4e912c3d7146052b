import { create, type MessageInitShape } from "@bufbuild/protobuf";
import fc from "fast-check";
import { beforeAll, expect, test } from "vitest";
import { ContentState, type Event, EventSchema, Section, Transport } from "#gen/gabion/event/v1/event_pb.ts";
import { type FactSchema, LearningState, type ModelPolicy, ModelPolicySchema } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect, Outcome, Reason } from "#gen/gabion/policy/v1/policy_pb.ts";
import { type CustomRule, CustomRuleSchema, RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { ContainerSchema } from "#gen/gabion/workload/v1/workload_pb.ts";
import { compileContainerPolicy, SECTIONS } from "./container-policy.ts";
import { loadExpressionLanguage } from "./custom-rules.ts";
import { decideEvent } from "./decide.ts";
import { toKernelSlot } from "./kernel-slot.ts";
import { DEFAULT_TREATMENT } from "./treatment.ts";

const container = create(ContainerSchema, { containerId: "c1", name: "web" });

function exec(path: string, uid = 1): Event {
  const process = {
    path,
    name: path.slice(path.lastIndexOf("/") + 1),
    invokedPath: path,
    uid,
    contentState: ContentState.UNCHANGED,
  };
  return create(EventSchema, { actor: process, kind: { case: "exec", value: { process } } });
}

function model(state: LearningState): ModelPolicy {
  const process = (path: string) => {
    const value = { path, name: path.slice(path.lastIndexOf("/") + 1), contentState: ContentState.UNCHANGED };
    return { kind: { case: "process", value } } as const;
  };
  const domain = { kind: { case: "domain", value: { name: "known.example", recordType: 1 } } } as const;
  const outbound = { kind: { case: "outbound", value: { transport: Transport.TCP, port: 443 } } } as const;
  const facts: Partial<Record<Section, MessageInitShape<typeof FactSchema>[]>> = {
    [Section.PROCESS]: ["/bin/known", "/bin/other"].map(process),
    [Section.DNS]: [domain],
    [Section.NETWORK]: [outbound],
  };
  return create(ModelPolicySchema, {
    modelKey: "m-1",
    sections: SECTIONS.map((section) => ({ section, state, facts: facts[section] ?? [] })),
  });
}

function custom(
  name: string,
  expression: string,
  more: Pick<MessageInitShape<typeof CustomRuleSchema>, "effect" | "isAllow" | "isIncident">,
): CustomRule {
  return create(CustomRuleSchema, { ...more, name, expression });
}

function policyOf(customRules: CustomRule[], effect: Effect, state: LearningState = LearningState.ACTIVE) {
  const rule = create(RuleSchema, {
    name: "r",
    customRules,
    process: { effect, allowed: [{ process: "/bin/listed" }], denied: [{ process: "/bin/denied" }] },
    network: { effect, denied: { outboundAddresses: ["192.0.2.0/24"] } },
    dns: { effect, denied: ["denied.example"] },
    syscall: { effect: effect === Effect.PREVENT ? Effect.ALERT : effect, denied: ["bpf"] },
  });
  return compileContainerPolicy(rule, model(state), DEFAULT_TREATMENT);
}

beforeAll(loadExpressionLanguage);

test("the first custom rule that is true decides, before the lists", () => {
  const policy = policyOf(
    [
      custom("root", "event.exec.process.uid == 0u", { effect: Effect.BLOCK, isIncident: true }),
      custom("known tool", "event.exec.runs('/bin/denied')", { isAllow: true }),
      custom("never", "event.exec.runs('/bin/listed')", { effect: Effect.PREVENT }),
    ],
    Effect.ALERT,
  );
  const decide = (path: string, uid = 1) => decideEvent(policy, exec(path, uid), container);
  expect(decide("/bin/known", 0)).toMatchObject({
    outcome: Outcome.DENIAL,
    effectApplied: Effect.BLOCK,
    isIncident: true,
    explanation: {
      reason: Reason.CUSTOM_RULE,
      matched: "root",
      message: "custom rule `root` is true of the start of `/bin/known`",
    },
  });
  expect(decide("/bin/denied")).toMatchObject({
    outcome: Outcome.ALLOW,
    isAudited: false,
    explanation: { matched: "known tool", passedOver: ["custom rule `root`: not true"] },
  });
  expect(decide("/bin/listed")).toMatchObject({ outcome: Outcome.DENIAL, effectApplied: Effect.PREVENT });
  const { explanation } = decide("/bin/known");
  expect(explanation?.reason).toBe(Reason.MODEL);
  expect(explanation?.passedOver.slice(0, 4)).toEqual([
    "custom rule `root`: not true",
    "custom rule `known tool`: not true",
    "custom rule `never`: not true",
    "denied list: names it not",
  ]);
});

test("what is true acts in every state, and what it allows is learned while learning", () => {
  const rules = [
    custom("bad", "event.exec.runs('/bin/known')", { effect: Effect.PREVENT }),
    custom("good", "event.exec.runs('/bin/new')", { isAllow: true }),
  ];
  for (const state of [LearningState.LEARNING, LearningState.DRY_RUN, LearningState.ACTIVE]) {
    const policy = policyOf(rules, Effect.ALERT, state);
    expect(decideEvent(policy, exec("/bin/known"), container).effectApplied).toBe(Effect.PREVENT);
    expect(decideEvent(policy, exec("/bin/new"), container)).toMatchObject({
      isAudited: false,
      isLearned: state !== LearningState.ACTIVE,
    });
  }
});

test("a section that is off has no custom rules, and one that cannot be told is not true", () => {
  const rules = [custom("args", "event.exec.process.args[3] == 'x'", { effect: Effect.BLOCK })];
  expect(decideEvent(policyOf(rules, Effect.DISABLE), exec("/bin/known"), container).isAudited).toBe(false);
  const { explanation } = decideEvent(policyOf(rules, Effect.ALERT), exec("/bin/known"), container);
  expect(explanation?.passedOver[0]).toMatch(/^custom rule `args`: could not be told, which is not true: index 3/);
});

const EFFECTS = [Effect.ALERT, Effect.PREVENT, Effect.BLOCK];
const expressions = [
  "event.exec.runs('/bin/known')",
  "event.exec.runs('/bin/*')",
  "event.exec.runs('denied')",
  "event.exec.runs('/bin/denied')",
  "event.exec.runs('*/denied')",
  "event.exec.process.uid == 0u",
  "event.connect.reaches('192.0.2.7')",
  "event.connect.port == 443u",
  "event.dns_query.name == 'denied.example'",
  "event.dns_query.name.startsWith('known')",
  "event.syscall_use.name in ['bpf', 'ptrace']",
  "container.name == 'db'",
];

const customRule = fc
  .record({
    expression: fc.constantFrom(...expressions),
    effect: fc.constantFrom(...EFFECTS),
    isAllow: fc.constantFrom(false, false, true),
  })
  .map((each) =>
    custom("x", each.expression, { isAllow: each.isAllow, effect: each.isAllow ? Effect.UNSPECIFIED : each.effect }),
  );

const STRENGTH = { allow: 0, ask: 1, audit: 2, prevent: 3, block: 4 } as const;

/** What the kernel says of a connection or a look-up: by the entries that name it, by an item that it passes, or by the default. */
function kernelSays(policy: ReturnType<typeof policyOf>, event: Event): keyof typeof STRENGTH | "item" {
  const slot = toKernelSlot(policy);
  const kind = event.kind;
  if (kind.case === "connect") {
    const denied = slot.entries.filter((e) => e.kind === "address_denied" && "bytes" in e);
    const found = denied
      .filter(
        (e) =>
          "bytes" in e && e.bytes.slice(0, e.prefix >> 3).every((byte, i) => byte === mapped(kind.value.address)[i]),
      )
      .sort((a, b) => ("prefix" in b ? b.prefix : 0) - ("prefix" in a ? a.prefix : 0))[0];
    const port = slot.entries.find(
      (e) => e.kind === "port_learned" && Buffer.from(e.bytes).readUInt16BE(1) === kind.value.port,
    );
    return found?.action ?? (port && "item") ?? slot.defaults.connect;
  }
  const name = kind.case === "dnsQuery" ? kind.value.name : "";
  const found = slot.entries.find((e) => e.kind === "domain" && e.text === name);
  const item = slot.entries.find((e) => e.kind === "domain_item" && e.text === name && e.action === "allow");
  return found?.action ?? (item && "item") ?? slot.defaults.domain;
}

function mapped(address: Uint8Array): Uint8Array {
  return Uint8Array.from([...Array<number>(10).fill(0), 255, 255, ...address]);
}

const events = fc.constantFrom(
  create(EventSchema, {
    kind: {
      case: "connect",
      value: { transport: Transport.TCP, address: Uint8Array.of(192, 0, 2, 7), port: 443, isInternet: true },
    },
  }),
  create(EventSchema, {
    kind: {
      case: "connect",
      value: { transport: Transport.TCP, address: Uint8Array.of(192, 0, 2, 8), port: 80, isInternet: true },
    },
  }),
  create(EventSchema, { kind: { case: "dnsQuery", value: { name: "denied.example", recordType: 1 } } }),
  create(EventSchema, { kind: { case: "dnsQuery", value: { name: "new.example", recordType: 1 } } }),
  create(EventSchema, { kind: { case: "dnsQuery", value: { name: "known.example", recordType: 1 } } }),
);

test("beside custom rules the kernel never does by itself what the policy would not, nor lets through what it would not", () => {
  fc.assert(
    fc.property(
      fc.array(customRule, { maxLength: 3 }),
      fc.constantFrom(...EFFECTS),
      fc.constantFrom(LearningState.ACTIVE, LearningState.LEARNING),
      events,
      (rules, effect, state, event) => {
        const policy = policyOf(rules, effect, state);
        const { effectApplied, isAudited, isHeld, isLearned } = decideEvent(policy, event, container);
        const said = kernelSays(policy, event);
        if (said === "prevent") expect(effectApplied).toBeGreaterThanOrEqual(Effect.PREVENT);
        if (said === "block") expect(effectApplied).toBe(Effect.BLOCK);
        if (said === "allow") expect(isAudited || isLearned).toBe(false);
        if (said === "item") expect(isAudited || isHeld).toBe(false);
      },
    ),
    { numRuns: 4_000 },
  );
});

test("a rule that needs only what the kernel knows is refused there, beside others that do not", () => {
  const named = custom("no curl", "event.exec.runs('/usr/bin/curl')", { effect: Effect.PREVENT });
  const slot = toKernelSlot(policyOf([named], Effect.ALERT));
  expect(slot.entries).toContainEqual({ kind: "path", text: "/usr/bin/curl", action: "prevent" });
  expect(slot.refused).toMatchObject([{ path: "/usr/bin/curl", isExec: true }]);
  const byUser = custom("no root", "event.exec.process.uid == 0u", { effect: Effect.ALERT });
  const asked = toKernelSlot(policyOf([byUser, named], Effect.ALERT));
  expect(asked.defaults.image).toBe("ask");
  expect(asked.entries).not.toContainEqual({ kind: "path", text: "/usr/bin/curl", action: "prevent" });
  const later = toKernelSlot(policyOf([named, byUser], Effect.ALERT));
  expect(later.entries).toContainEqual({ kind: "path", text: "/usr/bin/curl", action: "prevent" });
});

test("raw sockets are told where a custom rule asks about them, though the detector is off", () => {
  const rule = custom("raw", "event.raw_socket.protocol == 1u", { effect: Effect.ALERT });
  expect(toKernelSlot(policyOf([], Effect.ALERT)).defaults.raw).toBe("allow");
  expect(toKernelSlot(policyOf([rule], Effect.ALERT)).defaults.raw).toBe("ask");
});
