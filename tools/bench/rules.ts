/**
 * Rules in numbers: what choosing and deciding costs with many rules of many entries, how much of a journal a simulation goes
 * through, and how long a change takes to be in force on a thousand agents.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { compileContainerPolicy, SECTIONS } from "#core/policy/container-policy.ts";
import { decideEvent, ruleEvent } from "#core/policy/decide.ts";
import { compileRuleChoice } from "#core/policy/rule-choice.ts";
import { Simulation } from "#core/policy/simulate.ts";
import { DEFAULT_TREATMENT } from "#core/policy/treatment.ts";
import {
  ContentState,
  type Event,
  EventSchema,
  FileOperation,
  Section,
  Transport,
} from "#gen/gabion/event/v1/event_pb.ts";
import { IntelService } from "#gen/gabion/intel/v1/intel_service_pb.ts";
import { JournalRecordSchema, LearningState, ModelPolicySchema } from "#gen/gabion/model/v1/model_pb.ts";
import { ModelService } from "#gen/gabion/model/v1/model_service_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { type Rule, RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { RuleService } from "#gen/gabion/rule/v1/rule_service_pb.ts";
import { type Container, ContainerSchema } from "#gen/gabion/workload/v1/workload_pb.ts";
import { openBus } from "#lib/bus/connection.ts";
import { freePort, startBusServer } from "#lib/bus/server.ts";
import { loadConfig } from "#lib/config/config.ts";
import { systemClock } from "#lib/flow/clock.ts";
import { readCredentials } from "#lib/pki/credentials.ts";
import { createSignatureCheck } from "#lib/pki/signing.ts";
import { createRpcClient } from "#lib/rpc/client.ts";
import { prepareInstallation } from "#lib/service/installation.ts";
import { readBusSeed, readTrust } from "#lib/service/secrets.ts";
import { createLogger } from "#lib/telemetry/log.ts";
import { AppliedRevisions } from "../../agent/policy/applied-revisions.ts";
import { PolicyCache } from "../../agent/policy/policy-cache.ts";
import { PolicySource } from "../../agent/policy/policy-source.ts";
import { RULE_SETTINGS, startRuleService } from "../../services/rule/main.ts";
import { until } from "../demo/until.ts";
import { percentile, printTable } from "./statistics.ts";

const RULES = [10, 1_000, 10_000];
const ENTRIES = Number(process.env["ENTRIES"] ?? 1_000);
const AGENTS = Number(process.env["AGENTS"] ?? 1_000);
const SECONDS = 1;

const range = <T>(count: number, make: (index: number) => T): T[] => Array.from({ length: count }, (_, i) => make(i));

/** A rule for the containers of one name, with its entries spread over all sections. */
function makeRule(name: string, scope: string, entries = ENTRIES): Rule {
  const each = Math.max(1, Math.floor(entries / 10));
  const id = name.length;
  return create(RuleSchema, {
    name,
    ruleId: name,
    scope: { containers: [scope] },
    process: {
      effect: Effect.ALERT,
      allowed: range(each, (i) => ({ process: i % 10 === 0 ? `/opt/${name}/${i}/*` : `/opt/${name}/bin/${i}` })),
      denied: range(each, (i) => ({ process: i % 2 === 0 ? `tool-${id}-${i}` : `/usr/local/${name}/${i}` })),
      detectors: { drift: {}, crypto_miner: {}, reverse_shell: {}, lateral_movement: {}, intel: {} },
    },
    network: {
      effect: Effect.ALERT,
      allowed: {
        outboundAddresses: range(each, (i) => `10.${i & 255}.${id}.0/24`),
        outboundPorts: range(each, (i) => ({ first: 20_000 + 2 * i, last: 20_000 + 2 * i })),
      },
      denied: { outboundAddresses: range(each, (i) => `198.51.${i & 255}.${id}`) },
    },
    dns: {
      effect: Effect.ALERT,
      allowed: range(each, (i) => (i % 2 === 0 ? `*.a${i}.${name}.example` : `b${i}.${name}.example`)),
      denied: range(each, (i) => `*.d${i}.${name}.example`),
    },
    filesystem: {
      effect: Effect.ALERT,
      allowed: range(each, (i) => `/var/${name}/${i}/*`),
      denied: range(each, (i) => `/etc/${name}/${i}`),
      detectors: { account_files: {}, ssh_files: {}, loader_files: {}, changed_binary: {} },
    },
    syscall: { effect: Effect.ALERT },
  });
}

function program(path: string) {
  return { path, name: path.slice(path.lastIndexOf("/") + 1), invokedPath: path, contentState: ContentState.UNCHANGED };
}

const model = create(ModelPolicySchema, {
  modelKey: "m-1",
  sections: SECTIONS.map((section) => ({
    section,
    state: LearningState.ACTIVE,
    facts:
      section === Section.PROCESS
        ? range(300, (i) => ({ kind: { case: "process" as const, value: program(`/bin/p${i}`) } }))
        : [],
  })),
});

function exec(path: string): Event {
  return create(EventSchema, { actor: program(path), kind: { case: "exec", value: { process: program(path) } } });
}

/** What a container does in turn: known and unknown things of all sections. */
const EVENTS: readonly Event[] = [
  exec("/bin/p7"),
  exec("/bin/p299"),
  exec("/tmp/new"),
  create(EventSchema, {
    kind: {
      case: "connect",
      value: { transport: Transport.TCP, address: Uint8Array.of(192, 0, 2, 7), port: 443, isInternet: true },
    },
  }),
  create(EventSchema, {
    kind: { case: "connect", value: { transport: Transport.TCP, address: Uint8Array.of(10, 3, 9, 7), port: 5432 } },
  }),
  create(EventSchema, { kind: { case: "dnsQuery", value: { name: "www.example.com", recordType: 1 } } }),
  create(EventSchema, {
    actor: program("/bin/p1"),
    kind: { case: "fileChange", value: { operation: FileOperation.WRITE, path: "/data/x" } },
  }),
  create(EventSchema, { kind: { case: "syscallUse", value: { name: "openat", number: 257 } } }),
];

function perSecond(run: () => number): number {
  run();
  let count = 0;
  const began = performance.now();
  while (performance.now() - began < SECONDS * 1_000) count += run();
  return (count * 1_000) / (performance.now() - began);
}

const thousands = (value: number) => Math.round(value).toLocaleString("en-US");
const mib = () => process.memoryUsage().heapUsed / 1_048_576;

/** Containers on one node; each has a rule of its own, the last ones of the set. */
const CONTAINERS = 10;

function measureDecisions(count: number): string[] {
  globalThis.gc?.();
  const atFirst = mib();
  const rules = range(count, (i) => makeRule(`rule-${i}`, `web-${i}`));
  globalThis.gc?.();
  const atRules = mib();
  let began = performance.now();
  const choose = compileRuleChoice(rules);
  const scopesMs = performance.now() - began;
  const containers = range(CONTAINERS, (i) =>
    create(ContainerSchema, { containerId: `${i}`, name: `web-${count - 1 - i}` }),
  );
  const resolves = perSecond(() => containers.map((container) => choose(container)).length);
  const compile = (container: Container) => compileContainerPolicy(choose(container).rule, model, DEFAULT_TREATMENT);
  const chosen = rules.slice(-CONTAINERS);
  began = performance.now();
  for (const rule of chosen) compileContainerPolicy(rule, model, DEFAULT_TREATMENT);
  const policyMs = (performance.now() - began) / chosen.length;
  const policies = containers.map((container) => ({ container, policy: compile(container) }));
  const decisions = perSecond(() => {
    for (const { container, policy } of policies) for (const event of EVENTS) ruleEvent(policy, event, container);
    return policies.length * EVENTS.length;
  });
  const explained = perSecond(() => {
    for (const { container, policy } of policies) for (const event of EVENTS) decideEvent(policy, event, container);
    return policies.length * EVENTS.length;
  });
  return [
    thousands(count),
    (atRules - atFirst).toFixed(0),
    scopesMs.toFixed(1),
    policyMs.toFixed(2),
    thousands(resolves),
    thousands(decisions),
    thousands(explained),
  ];
}

function measureKinds(): string[][] {
  const rule = makeRule("rule-0", "web-0");
  const policy = compileContainerPolicy(rule, model, DEFAULT_TREATMENT);
  const container = create(ContainerSchema, { name: "web-0" });
  return EVENTS.map((event) => {
    const rate = perSecond(() => {
      for (let i = 0; i < 1_000; i += 1) ruleEvent(policy, event, container);
      return 1_000;
    });
    const path = event.kind.case === "exec" ? ` ${event.kind.value.process?.path}` : "";
    return [`${event.kind.case}${path}`, thousands(rate), (1e6 / rate).toFixed(2)];
  });
}

function measureSimulation(): string[] {
  const days = 7;
  const records = 2_000;
  const containers = range(10, (i) =>
    create(ContainerSchema, { containerId: `${i}`, name: `web-${i}`, nodeId: "n", modelKey: "m-1" }),
  );
  const byKey = new Map(containers.map((container) => [`n/${container.containerId}`, container] as const));
  const journal = range(days * records, (i) =>
    create(JournalRecordSchema, {
      modelKey: "m-1",
      day: `2026-11-${10 + (i % days)}`,
      event: i % 2 === 0 ? exec(`/bin/p${i % 400}`) : (EVENTS[i % EVENTS.length] as Event),
      counts: containers.map(({ containerId }) => ({ nodeId: "n", containerId, count: 3n })),
    }),
  );
  const now = [makeRule("rule-0", "web-*")];
  const draft = [makeRule("rule-1", "web-*"), ...now];
  const began = performance.now();
  const simulation = new Simulation(now, draft);
  for (const record of journal) simulation.addRecord(record, { policy: model, containers }, byKey);
  const seconds = (performance.now() - began) / 1_000;
  return [
    `${days} days, ${thousands(records)} records a day, 10 containers`,
    seconds.toFixed(2),
    (days / seconds).toFixed(1),
    thousands(simulation.decisionCount / seconds),
  ];
}

async function measureConvergence(entries: number): Promise<string[]> {
  await using stack = new AsyncDisposableStack();
  const data = mkdtempSync(join(tmpdir(), "gabion-rules-"));
  stack.defer(() => rmSync(data, { recursive: true, force: true }));
  const pki = join(data, "pki");
  const natsPort = await freePort();
  const nodeIds = range(AGENTS, (i) => `node-${i}`);
  const nats = { natsDirectory: join(data, "nats"), natsHost: "127.0.0.1", natsPort };
  const natsConfig = await prepareInstallation({ pkiDirectory: pki, ...nats, nodeIds });
  const logger = createLogger("bench", "error");
  stack.use(await startBusServer("/usr/sbin/nats-server", natsConfig, logger));
  const flags = [
    `data.directory=${data}`,
    `pki.directory=${pki}`,
    "listen.port=0",
    `nats.servers=127.0.0.1:${natsPort}`,
    "log.level=error",
  ];
  const server = await startRuleService(loadConfig(RULE_SETTINGS, { env: {}, flags }), stack);
  const rpcOf = (identity: string) =>
    stack.use(
      createRpcClient({ url: server.url, credentials: readCredentials(pki, identity), expects: "service/rule" }),
    );
  const operator = createClient(RuleService, rpcOf("operator/local/admin").transport);
  const check = createSignatureCheck(readTrust(pki));
  const applied = new Map<string, { revision: bigint; at: number }>();
  const startAgent = async (nodeId: string) => {
    const identity = `node/${nodeId}`;
    const { transport } = rpcOf(identity);
    const seed = readBusSeed(pki, identity);
    const credentials = readCredentials(pki, identity);
    const bus = stack.use(openBus({ servers: [`127.0.0.1:${natsPort}`], credentials, seed, name: identity, logger }));
    const source = stack.use(
      new PolicySource({
        bus,
        check,
        models: createClient(ModelService, transport),
        rules: createClient(RuleService, transport),
        intel: createClient(IntelService, transport),
        applied: new AppliedRevisions(join(data, nodeId, "applied.json")),
        cache: new PolicyCache(join(data, nodeId, "policy")),
        clock: systemClock,
        logger,
        sectionsOf: () => [],
        containers: () => [],
        revisionOf: () => 0n,
        onRuleset: async ({ revision }) => {
          applied.set(nodeId, { revision, at: performance.now() });
        },
        onModel: async () => {},
        onUnanalysed: () => {},
        onIntel: async () => {},
      }),
    );
    await bus.connection();
    await source.fetchRuleset();
  };
  // Some at a time: each makes two connections over TLS, all in this one process.
  for (let at = 0; at < nodeIds.length; at += 25) await Promise.all(nodeIds.slice(at, at + 25).map(startAgent));
  // Heads are heard from when the subscription is there.
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  const times: number[] = [];
  const rounds = 5;
  for (let round = 0; round < rounds; round += 1) {
    const began = performance.now();
    await operator.createRule({
      rule: create(RuleSchema, { ...makeRule(`rule-${round}`, `web-${round}`, entries), ruleId: "" }),
    });
    const { rulesetRevision } = await operator.listRules({ pageSize: 1 });
    await until("every agent to have it", 60_000, () =>
      [...applied.values()].every(({ revision }) => revision >= rulesetRevision) ? true : undefined,
    );
    times.push(...[...applied.values()].map(({ at }) => at - began));
  }
  return [thousands(AGENTS), thousands(entries), ...[0.5, 0.99, 1].map((share) => percentile(times, share).toFixed(0))];
}

printTable(
  `choosing and deciding, one core: ${thousands(ENTRIES)} entries in each rule, a model of 300 programs; ${CONTAINERS} containers that the last rules name, ${EVENTS.length} events each`,
  [
    [
      "rules",
      "MiB as messages",
      "compile scopes ms",
      "compile one policy ms",
      "choices/s",
      "decisions/s",
      "told decisions/s",
    ],
    ...RULES.map(measureDecisions),
  ],
);
printTable("one decision by kind of event, one rule of as many entries", [
  ["event", "decisions/s", "µs"],
  ...measureKinds(),
]);
printTable("simulation against a journal, one core", [
  ["journal", "seconds", "days/s", "decisions/s"],
  measureSimulation(),
]);
printTable("from saving a rule until agents have verified and taken it in, ms; all on this machine, five changes", [
  ["agents", "entries in each rule", "p50", "p99", "slowest"],
  await measureConvergence(10),
  await measureConvergence(ENTRIES),
]);
process.exit(0);
