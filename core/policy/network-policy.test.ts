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
