import { readFileSync } from "node:fs";
import { create, fromJson, type JsonValue } from "@bufbuild/protobuf";
import { beforeAll, expect, test } from "vitest";
import { type Event, EventSchema, type Section } from "#gen/gabion/event/v1/event_pb.ts";
import { IntelSetSchema } from "#gen/gabion/intel/v1/intel_pb.ts";
import { LearningState, ModelPolicySchema } from "#gen/gabion/model/v1/model_pb.ts";
import { Outcome, Reason } from "#gen/gabion/policy/v1/policy_pb.ts";
import { RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { ContainerSchema } from "#gen/gabion/workload/v1/workload_pb.ts";
import { compileIntel } from "../intel/intel-set.ts";
import { compileContainerPolicy } from "./container-policy.ts";
import { loadExpressionLanguage } from "./custom-rules.ts";
import { decideEvent, ruleEvent } from "./decide.ts";
import { DEFAULT_TREATMENT } from "./treatment.ts";

type By = "custom" | "denied" | "detector" | "allowed" | "intel" | "model" | "nothing";
type Kind = "exec" | "connect" | "listen" | "rawSocket" | "dnsQuery" | "fileChange" | "syscallUse";

interface Step {
  readonly by: By;
  readonly outcome: keyof typeof Outcome;
  readonly reason: keyof typeof Reason;
}

const golden = JSON.parse(readFileSync(new URL("testdata/order.json", import.meta.url), "utf8")) as {
  readonly kinds: Record<Kind, Step[]>;
};

const SHA = "b".repeat(64);

/** What each consideration needs to name the event: parts of a rule, and facts of the model, in their JSON form. */
interface Scene {
  readonly section: keyof typeof Section;
  readonly event: (named: ReadonlySet<By>) => JsonValue;
  readonly custom: string;
  readonly part: (named: ReadonlySet<By>) => Record<string, JsonValue>;
  readonly facts: JsonValue[];
}

function only<T extends JsonValue>(named: ReadonlySet<By>, by: By, value: T): T | [] {
  return named.has(by) ? value : [];
}

const scenes: Record<Kind, Scene> = {
  exec: {
    section: "PROCESS",
    custom: "event.exec.runs('/opt/tool')",
    event: (named) => {
      const isForeign = named.has("detector") || named.has("intel");
      const content = isForeign
        ? { contentState: "CONTENT_STATE_FOREIGN", sha256: SHA }
        : { contentState: "CONTENT_STATE_UNCHANGED" };
      return { exec: { process: { path: "/opt/tool", name: "tool", invokedPath: "/opt/tool", ...content } } };
    },
    part: (named) => ({
      process: {
        denied: only(named, "denied", [{ process: "/opt/*" }]),
        allowed: only(named, "allowed", [{ process: "tool" }]),
        detectors: { ...(named.has("detector") ? { drift: {} } : {}), ...(named.has("intel") ? { intel: {} } : {}) },
      },
    }),
    facts: [
      { process: { path: "/opt/tool", name: "tool", contentState: "CONTENT_STATE_UNCHANGED" } },
      { process: { path: "/opt/tool", name: "tool", contentState: "CONTENT_STATE_FOREIGN", sha256: SHA } },
    ],
  },
  connect: {
    section: "NETWORK",
    custom: "event.connect.port == 443",
    // The metadata service is no Internet destination, which the model does not judge.
    event: (named) => ({
      connect: {
        transport: "TRANSPORT_TCP",
        port: 443,
        ...(named.has("detector") ? { address: "qf6p/g==" } : { address: "CAgICA==", isInternet: true }),
      },
    }),
    part: (named) => ({
      network: {
        denied: { outboundAddresses: only(named, "denied", ["0.0.0.0/0"]) },
        allowed: { outboundAddresses: only(named, "allowed", ["8.8.8.8", "169.254.169.254"]) },
        detectors: {
          ...(named.has("detector") ? { metadata_service: {} } : {}),
          ...(named.has("intel") ? { intel: {} } : {}),
        },
      },
    }),
    facts: [{ outbound: { transport: "TRANSPORT_TCP", port: 443 } }],
  },
  listen: {
    section: "NETWORK",
    custom: "event.listen.port == 8080",
    event: () => ({ listen: { transport: "TRANSPORT_TCP", port: 8080 } }),
    part: (named) => ({
      network: {
        denied: { listeningPorts: only(named, "denied", [{ first: 8000, last: 8999 }]) },
        allowed: { listeningPorts: only(named, "allowed", [{ first: 8080, last: 8080 }]) },
      },
    }),
    facts: [{ listen: { transport: "TRANSPORT_TCP", port: 8080 } }],
  },
  rawSocket: {
    section: "NETWORK",
    custom: "event.raw_socket.protocol == 1u",
    event: () => ({ actor: { path: "/bin/ping", name: "ping" }, rawSocket: { family: 2, protocol: 1, type: 3 } }),
    part: () => ({ network: { detectors: { raw_socket: {} } } }),
    facts: [{ process: { path: "/bin/ping", name: "ping", contentState: "CONTENT_STATE_UNCHANGED" } }],
  },
  dnsQuery: {
    section: "DNS",
    custom: "event.dns_query.record_type == 1",
    event: () => ({ dnsQuery: { name: "www.example.com", recordType: 1 } }),
    part: (named) => ({
      dns: {
        denied: only(named, "denied", ["*.example.com"]),
        allowed: only(named, "allowed", ["www.example.com"]),
        detectors: named.has("intel") ? { intel: {} } : {},
      },
    }),
    facts: [{ domain: { name: "www.example.com", recordType: 1 } }],
  },
  fileChange: {
    section: "FILESYSTEM",
    custom: "event.file_change.touches('/etc/*')",
    event: () => ({
      actor: { path: "/usr/sbin/adduser" },
      fileChange: { operation: "FILE_OPERATION_WRITE", path: "/etc/passwd" },
    }),
    part: (named) => ({
      filesystem: {
        denied: only(named, "denied", ["/etc/*"]),
        allowed: only(named, "allowed", ["/etc/passwd"]),
        detectors: named.has("detector") ? { account_files: {} } : {},
      },
    }),
    facts: [{ file: { path: "/etc", processPath: "/usr/sbin/adduser" } }],
  },
  syscallUse: {
    section: "SYSCALL",
    custom: "event.syscall_use.name == 'ptrace'",
    event: () => ({ syscallUse: { name: "ptrace", number: 101 } }),
    part: (named) => ({
      syscall: { denied: only(named, "denied", ["ptrace"]), allowed: only(named, "allowed", ["ptrace"]) },
    }),
    facts: [{ syscall: { name: "ptrace" } }],
  },
};

const container = create(ContainerSchema, { containerId: "c1", name: "web" });
const intel = compileIntel(
  create(IntelSetSchema, {
    revision: 1n,
    files: [{ sha256: Buffer.from(SHA, "hex"), feed: "test" }],
    domains: [{ value: "example.com", feed: "test" }],
    prefixes: [
      { value: "8.8.8.0/24", feed: "test" },
      { value: "169.254.0.0/16", feed: "test" },
    ],
  }),
  0,
);

function policyOf(kind: Kind, named: ReadonlySet<By>) {
  const { section, custom, part, facts } = scenes[kind];
  const [[name, body]] = Object.entries(part(named)) as [[string, Record<string, JsonValue>]];
  const rule = fromJson(RuleSchema, {
    name: "r",
    [name]: { effect: "EFFECT_ALERT", ...body },
    customRules: only(named, "custom", [{ name: "c", expression: custom, effect: "EFFECT_ALERT" }]),
  });
  const state = LearningState.ACTIVE;
  const model = fromJson(ModelPolicySchema, {
    sections: [
      { section: "SECTION_PROCESS", facts: kind === "exec" || kind === "rawSocket" ? only(named, "model", facts) : [] },
      { section: `SECTION_${section}`, facts: kind === "exec" ? [] : only(named, "model", facts) },
    ].filter((each) => each.section !== "SECTION_PROCESS" || kind === "exec" || kind === "rawSocket"),
  });
  for (const each of model.sections) each.state = state;
  if (kind === "exec") model.sections.splice(1);
  return compileContainerPolicy(rule, model, DEFAULT_TREATMENT, { intel });
}

const pairs = Object.entries(golden.kinds).flatMap(([kind, steps]) =>
  steps.flatMap((step, index) =>
    steps.slice(index).map((later) => ({ kind: kind as Kind, first: step.by, second: later.by, ...step })),
  ),
);

function decide(kind: Kind, named: ReadonlySet<By>) {
  const event: Event = fromJson(EventSchema, scenes[kind].event(named));
  const policy = policyOf(kind, named);
  return { decision: decideEvent(policy, event, container), ruling: ruleEvent(policy, event, container) };
}

beforeAll(loadExpressionLanguage);

test("every pair is there", () => {
  expect(pairs.length).toBe(28 + 28 + 15 + 6 + 21 + 21 + 15);
});

test.each(pairs)("$kind: of $first and $second, $first decides", ({ kind, first, second, outcome, reason }) => {
  const { decision, ruling } = decide(kind, new Set([first, second]));
  expect(decision.explanation?.reason).toBe(Reason[reason]);
  expect(decision.outcome).toBe(Outcome[outcome]);
  expect(ruling.finding).toMatchObject({ outcome: decision.outcome, reason: decision.explanation?.reason });
  expect(ruling.treatment.effect).toBe(decision.effectApplied);
});
