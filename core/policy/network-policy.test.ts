import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { Transport } from "#gen/gabion/event/v1/event_pb.ts";
import { IntelSetSchema } from "#gen/gabion/intel/v1/intel_pb.ts";
import { FactSchema, LearningState, OutboundFactSchema } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect, Outcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import { NetworkSectionSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { compileIntel } from "../intel/intel-set.ts";
import { eventOfFact } from "../model/journal.ts";
import { compileNetworkPolicy, evaluateConnect } from "./network-policy.ts";

const HTTPS = create(OutboundFactSchema, { transport: Transport.TCP, port: 443 });

function outcomeOfKnownPort(denied: string[], bad: string[]): Outcome {
  const policy = compileNetworkPolicy({
    section: create(NetworkSectionSchema, {
      effect: Effect.ALERT,
      denied: { outboundAddresses: denied },
      detectors: { intel: {} },
    }),
    hasRule: true,
    listening: [],
    outbound: [HTTPS],
    processes: [],
    intel: compileIntel(create(IntelSetSchema, { revision: 1n, prefixes: bad.map((value) => ({ value })) }), 0),
    state: LearningState.ACTIVE,
  });
  const event = eventOfFact(create(FactSchema, { kind: { case: "outbound", value: HTTPS } }));
  if (event?.kind.case !== "connect") throw new Error("no connection");
  return evaluateConnect(policy, { ...event.kind.value, isDirect: false, isLoopback: false }).outcome;
}

test("a known port of the Internet is named by no list of addresses but one of all", () => {
  expect(outcomeOfKnownPort([], [])).toBe(Outcome.ALLOW);
  // As lists of networks that nobody has announce it.
  expect(outcomeOfKnownPort([], ["0.0.0.0/8"])).toBe(Outcome.ALLOW);
  expect(outcomeOfKnownPort(["0.0.0.0/8"], [])).toBe(Outcome.ALLOW);
  expect(outcomeOfKnownPort(["0.0.0.0/0"], [])).toBe(Outcome.DENIAL);
  expect(outcomeOfKnownPort(["::/0"], [])).toBe(Outcome.DENIAL);
});

function lateralIn(
  state: LearningState,
  knownPorts: readonly number[],
  { port = 5432, exceptions = [], known = "10.9.9.9" }: { port?: number; exceptions?: string[]; known?: string } = {},
) {
  const detectors = { lateral_movement: { effect: Effect.PREVENT, exceptions } };
  const policy = compileNetworkPolicy({
    section: create(NetworkSectionSchema, { effect: Effect.ALERT, detectors }),
    hasRule: true,
    listening: [],
    outbound: knownPorts.map((each) =>
      create(OutboundFactSchema, { transport: Transport.TCP, port: each, address: known }),
    ),
    internalRanges: ["100.64.0.0/10"],
    processes: [],
    state,
  });
  const address = Uint8Array.of(10, 1, 2, 3);
  const where = { isInternet: false, isLoopback: false, isDirect: false, domain: "" };
  return evaluateConnect(policy, { transport: Transport.TCP, address, port, ...where });
}

test("a port of lateral movement that a complete model does not hold is a detection, and learned before that", () => {
  const { ACTIVE, DRY_RUN, LEARNING } = LearningState;
  expect(lateralIn(ACTIVE, [8080])).toMatchObject({
    outcome: Outcome.DETECTION,
    detector: "lateral_movement",
    effectApplied: Effect.PREVENT,
    isLearned: false,
  });
  // Whether it belongs to the image is not known yet: nobody is stopped, and it is learned.
  expect(lateralIn(DRY_RUN, [])).toMatchObject({
    outcome: Outcome.DETECTION,
    effectApplied: Effect.ALERT,
    isLearned: true,
  });
  expect(lateralIn(LEARNING, [])).toMatchObject({ outcome: Outcome.ALLOW, isAudited: false, isLearned: true });
  // What was contacted on the Internet says nothing of workloads; ranges of the cluster's own are not the Internet.
  expect(lateralIn(ACTIVE, [5432], { known: "203.0.113.7" })).toMatchObject({ outcome: Outcome.DETECTION });
  expect(lateralIn(ACTIVE, [5432], { known: "100.64.0.7" })).toMatchObject({ outcome: Outcome.ALLOW });
  // Workloads change their addresses.
  expect(lateralIn(ACTIVE, [5432])).toMatchObject({ outcome: Outcome.ALLOW, isAudited: false });
  expect(lateralIn(ACTIVE, [], { port: 8080 })).toMatchObject({ outcome: Outcome.ALLOW, isAudited: false });
  for (const exception of ["10.1.2.3", "5432"])
    expect(lateralIn(ACTIVE, [], { exceptions: [exception] })).toMatchObject({ outcome: Outcome.ALLOW });
});
