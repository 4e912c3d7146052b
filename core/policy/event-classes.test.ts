import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { ContentState, FileOperation, Transport } from "#gen/gabion/event/v1/event_pb.ts";
import { IntelSetSchema } from "#gen/gabion/intel/v1/intel_pb.ts";
import {
  DomainFactSchema,
  FileFactSchema,
  LearningState,
  ListenFactSchema,
  OutboundFactSchema,
  ProcessFactSchema,
  SyscallFactSchema,
} from "#gen/gabion/model/v1/model_pb.ts";
import { type Decision, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import {
  DnsSectionSchema,
  FilesystemSectionSchema,
  NetworkSectionSchema,
  ProcessSectionSchema,
  SyscallSectionSchema,
} from "#gen/gabion/rule/v1/rule_pb.ts";
import { compileIntel } from "../intel/intel-set.ts";
import { compileDnsPolicy, evaluateDnsDetection, evaluateDnsQuery } from "./dns-policy.ts";
import { compileFilePolicy, evaluateFile, evaluateWritten } from "./file-policy.ts";
import { compileNetworkPolicy, evaluateConnect, evaluateListen } from "./network-policy.ts";
import { NOTHING_SPECIAL, type ProcessEvent } from "./process-event.ts";
import { compileProcessPolicy, evaluateProcess } from "./process-policy.ts";
import { evaluatePortScan } from "./socket-policy.ts";
import { compileSyscallPolicy, evaluateSyscall } from "./syscall-policy.ts";
import classes from "./testdata/event-classes.json" with { type: "json" };
import treatment from "./testdata/treatment.json" with { type: "json" };

const BAD = { feed: "own", description: "a test" };
const intel = compileIntel(
  create(IntelSetSchema, {
    revision: 1n,
    files: [{ ...BAD, sha256: Buffer.from("b".repeat(64), "hex") }],
    domains: [{ ...BAD, value: "bad.example" }],
    prefixes: [{ ...BAD, value: "198.51.100.0/24" }],
  }),
  0,
);
const effect = Effect.BLOCK;
const hasRule = true;

function process(change: Partial<ProcessEvent>): ProcessEvent {
  return {
    path: "/bin/new",
    name: "new",
    invokedPath: "/bin/new",
    contentState: ContentState.UNCHANGED,
    sha256: "",
    parents: [],
    isScript: false,
    ...NOTHING_SPECIAL,
    ...change,
  };
}

function execOf(state: LearningState, change: Partial<ProcessEvent>): Decision {
  const detectors = { reverse_shell: {}, crypto_miner: {}, lateral_movement: {}, intel: {}, drift: {}, setuid: {} };
  const section = create(ProcessSectionSchema, { effect, denied: [{ process: "denied" }], detectors });
  const items = [
    create(ProcessFactSchema, { path: "/bin/known", name: "known", contentState: ContentState.UNCHANGED }),
  ];
  return evaluateProcess(compileProcessPolicy({ section, hasRule, items, intel, state }), process(change));
}

function networkOf(state: LearningState) {
  const denied = { outboundAddresses: ["203.0.113.66"], listeningPorts: [{ first: 66, last: 66 }] };
  const section = create(NetworkSectionSchema, {
    effect,
    denied,
    detectors: { metadata_service: {}, port_scan: {}, intel: {} },
  });
  return compileNetworkPolicy({
    section,
    hasRule,
    listening: [create(ListenFactSchema, { transport: Transport.TCP, port: 80 })],
    outbound: [create(OutboundFactSchema, { transport: Transport.TCP, port: 443 })],
    processes: [],
    intel,
    state,
  });
}

function connectOf(state: LearningState, address: string, port: number): Decision {
  const isInternet = !address.startsWith("169.");
  const event = {
    transport: Transport.TCP,
    address: Uint8Array.from(address.split(".").map(Number)),
    port,
    domain: "",
  };
  return evaluateConnect(networkOf(state), { ...event, isInternet, isLoopback: false, isDirect: false });
}

function listenOf(state: LearningState, port: number): Decision {
  return evaluateListen(networkOf(state), { transport: Transport.TCP, port, isEphemeral: false });
}

function dnsOf(state: LearningState) {
  const section = create(DnsSectionSchema, {
    effect,
    denied: ["denied.example"],
    detectors: { dns_tunnel: {}, encrypted_dns: {}, intel: {} },
  });
  const items = [
    create(DomainFactSchema, { name: "known.example.com", recordType: 1 }),
    create(DomainFactSchema, { name: "shard-?.example.net", recordType: 1, isPattern: true }),
  ];
  return compileDnsPolicy({ section, hasRule, items, intel, state });
}

function queryOf(state: LearningState, name: string): Decision {
  return evaluateDnsQuery(dnsOf(state), { name, recordType: 1, isMalformed: false });
}

function filesOf(state: LearningState) {
  const detectors = { account_files: {}, changed_binary: {}, malware: {} };
  const section = create(FilesystemSectionSchema, { effect, denied: ["/srv/denied"], detectors });
  const items = [
    create(FileFactSchema, { path: "/srv/known", processPath: "/bin/app" }),
    create(FileFactSchema, { path: "/srv/job-?", processPath: "/bin/app", isPattern: true }),
  ];
  return compileFilePolicy({ section, hasRule, items, intel, state });
}

function writeOf(state: LearningState, path: string, isExecutable = false): Decision {
  const event = { operation: FileOperation.WRITE, path, newPath: "", processPath: "/bin/app", isExecutable };
  return evaluateFile(filesOf(state), event);
}

function callOf(state: LearningState, name: string): Decision {
  const section = create(SyscallSectionSchema, { effect, denied: ["ptrace"] });
  const items = [create(SyscallFactSchema, { name: "read" })];
  return evaluateSyscall(compileSyscallPolicy({ section, hasRule, items, state }), { name, isCompat: false });
}

/** What each kind of event of event-classes.json is, for a state of the model. */
const EVENTS: Readonly<Record<string, Readonly<Record<string, (state: LearningState) => Decision | undefined>>>> = {
  process: {
    "an unknown program": (s) => execOf(s, {}),
    "a known program": (s) => execOf(s, { path: "/bin/known", name: "known" }),
    "a denied program": (s) => execOf(s, { path: "/bin/denied", name: "denied" }),
    "a reverse shell": (s) => execOf(s, { path: "/bin/sh", name: "sh", stream: "203.0.113.1:4444" }),
    "a miner": (s) => execOf(s, { name: "xmrig" }),
    "an attack tool": (s) => execOf(s, { name: "nmap" }),
    "a program with the content of a bad file": (s) =>
      execOf(s, { contentState: ContentState.UNCHANGED, sha256: "b".repeat(64) }),
    "a program that is not in the image": (s) =>
      execOf(s, { contentState: ContentState.FOREIGN, sha256: "c".repeat(64) }),
    "a program that takes another user's rights": (s) => execOf(s, { isSetuid: true }),
  },
  network: {
    "an unknown port of the Internet": (s) => connectOf(s, "203.0.113.1", 4444),
    "a known port of the Internet": (s) => connectOf(s, "203.0.113.1", 443),
    "an address that intelligence lists": (s) => connectOf(s, "198.51.100.9", 443),
    "a denied address": (s) => connectOf(s, "203.0.113.66", 443),
    "the metadata service": (s) => connectOf(s, "169.254.169.254", 80),
    "an unknown listening port": (s) => listenOf(s, 4444),
    "a known listening port": (s) => listenOf(s, 80),
    "a denied listening port": (s) => listenOf(s, 66),
    "a port scan": (s) => evaluatePortScan(networkOf(s), "a port scan", "10.0.0.1"),
  },
  dns: {
    "an unknown name": (s) => queryOf(s, "new.example.com"),
    "a known name": (s) => queryOf(s, "known.example.com"),
    "a name that a family covers": (s) => queryOf(s, "shard-7.example.net"),
    "a name that intelligence lists": (s) => queryOf(s, "c2.bad.example"),
    "a denied name": (s) => queryOf(s, "denied.example"),
    "a tunnel": (s) => evaluateDnsDetection(dnsOf(s), "dns_tunnel", "a tunnel", "t.example"),
    "a resolver over HTTPS": (s) => evaluateDnsDetection(dnsOf(s), "encrypted_dns", "a resolver", "dns.example"),
  },
  filesystem: {
    "an unknown folder": (s) => writeOf(s, "/srv/new/x"),
    "a known folder": (s) => writeOf(s, "/srv/known/x"),
    "a folder that a family covers": (s) => writeOf(s, "/srv/job-7/x"),
    "a denied file": (s) => writeOf(s, "/srv/denied"),
    "an account file": (s) => writeOf(s, "/etc/passwd"),
    "a changed executable": (s) => writeOf(s, "/srv/known/x", true),
    "a bad file": (s) =>
      evaluateWritten(filesOf(s), { path: "/srv/known/x", processPath: "/bin/app", sha256: "b".repeat(64) }),
  },
  syscall: {
    "an unknown call": (s) => callOf(s, "mount"),
    "a known call": (s) => callOf(s, "read"),
    "a denied call": (s) => callOf(s, "ptrace"),
  },
};

function shown({ isLearned, isHeld, isAudited, isDryRun, effectApplied }: Decision): string {
  const name = Object.entries(Effect).find(([, value]) => value === effectApplied)?.[0] ?? "";
  return [
    ...(isLearned ? ["learned"] : []),
    ...(isHeld ? ["held"] : []),
    ...(isAudited ? ["audited"] : []),
    ...(isDryRun ? ["dry_run"] : []),
    ...(isAudited ? [name] : []),
  ].join(" ");
}

const rows = Object.entries(classes.events).flatMap(([section, events]) =>
  Object.entries(events).map(([event, eventClass]) => [section, event, eventClass] as const),
);

test("every kind of event is in the table, and nothing else", () => {
  const listed = rows.map(([section, event]) => `${section}: ${event}`);
  const known = Object.entries(EVENTS).flatMap(([section, events]) =>
    Object.keys(events).map((event) => `${section}: ${event}`),
  );
  expect(listed.sort()).toEqual(known.sort());
});

test.each(rows)("%s: %s is treated as %s in every state", (section, event, eventClass) => {
  const expected = treatment.rows[eventClass as keyof typeof treatment.rows] as Readonly<Record<string, string>>;
  for (const [state, name] of Object.entries(treatment.columns)) {
    const decision = EVENTS[section]?.[event]?.(LearningState[name as keyof typeof LearningState]);
    expect(decision && shown(decision), state).toBe(expected[state]);
  }
});
