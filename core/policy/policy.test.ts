import { readFileSync } from "node:fs";
import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { ContentState } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState, type ProcessFact, ProcessFactSchema } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect, Outcome, Reason } from "#gen/gabion/policy/v1/policy_pb.ts";
import { FilesystemSectionSchema, ProcessSectionSchema, RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { ContainerSchema } from "#gen/gabion/workload/v1/workload_pb.ts";
import { DEFAULT_RULE_NAME, defaultRule } from "./default-rule.ts";
import { NOTHING_SPECIAL, type ProcessEvent } from "./process-event.ts";
import { compileProcessPolicy, evaluateProcess } from "./process-policy.ts";
import { checkRule, warnOfRule } from "./rule-check.ts";
import { compileRuleChoice } from "./rule-choice.ts";
import { type EventClass, treat } from "./treatment.ts";

function golden<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(`testdata/${name}.json`, import.meta.url), "utf8")) as T;
}

interface TreatmentTable {
  readonly columns: Record<string, keyof typeof LearningState>;
  readonly rows: Record<EventClass, Record<string, string>>;
}

const table = golden<TreatmentTable>("treatment");
const cells = Object.entries(table.rows).flatMap(([row, states]) =>
  Object.entries(states).map(([column, cell]) => ({ row: row as EventClass, column, cell })),
);

test("the table has every event class and every state", () => {
  expect(cells).toHaveLength(5 * 6);
});

test.each(cells)("$row in $column: $cell", ({ row, column, cell }) => {
  const state = LearningState[table.columns[column] as "ACTIVE"];
  const treatment = treat(row, state, Effect.BLOCK);
  const marks = [
    treatment.isLearned ? "learned" : "",
    treatment.isHeld ? "held" : "",
    treatment.isAudited ? "audited" : "",
    treatment.isDryRun ? "dry_run" : "",
    treatment.isAudited ? (Object.entries(Effect).find(([, value]) => value === treatment.effect)?.[0] ?? "") : "",
  ];
  expect(marks.filter(Boolean).join(" ")).toBe(cell);
});

test("a setting lifts the cap of the dry run", () => {
  const settings = { liftsDryRunCap: true, auditsDetectionsWhileLearning: false };
  expect(treat("deviation", LearningState.DRY_RUN, Effect.BLOCK, settings).effect).toBe(Effect.BLOCK);
});

interface ResultantCase {
  readonly name: string;
  readonly model: readonly string[];
  readonly allowed?: readonly string[];
  readonly run: string;
  readonly as?: string;
  readonly content?: keyof typeof ContentState;
  readonly drift?: boolean;
  readonly outcome: keyof typeof Outcome;
  readonly reason: keyof typeof Reason;
}

function item(text: string): ProcessFact {
  const [path = "", name = path.slice(path.lastIndexOf("/") + 1)] = text.split(" as ");
  return create(ProcessFactSchema, { path, name, contentState: ContentState.UNCHANGED });
}

function event(path: string, more: Partial<ProcessEvent> = {}): ProcessEvent {
  const name = path.slice(path.lastIndexOf("/") + 1);
  const base = {
    path,
    name,
    invokedPath: path,
    contentState: ContentState.UNCHANGED,
    sha256: "",
    parents: [],
    isScript: false,
    ...NOTHING_SPECIAL,
  };
  return { ...base, ...more };
}

test.each(golden<{ cases: ResultantCase[] }>("resultant").cases)("$name", (example) => {
  const { outcome, reason, content = "UNCHANGED" } = example;
  const section = create(ProcessSectionSchema, {
    effect: Effect.PREVENT,
    allowed: (example.allowed ?? ["bar"]).map((process) => ({ process })),
    denied: [{ process: "foo" }],
    detectors: example.drift ? { drift: {} } : {},
  });
  const items = example.model.map(item);
  const policy = compileProcessPolicy({ section, hasRule: true, items, state: LearningState.ACTIVE });
  const sha256 = content === "CHANGED" || content === "FOREIGN" ? "b".repeat(64) : "";
  const more = { contentState: ContentState[content], sha256, ...(example.as ? { name: example.as } : {}) };
  const decision = evaluateProcess(policy, event(example.run, more));
  expect(decision.outcome).toBe(Outcome[outcome]);
  expect(decision.explanation?.reason).toBe(Reason[reason]);
});

test("what could not be told apart is audited and stops nothing", () => {
  const section = create(ProcessSectionSchema, { effect: Effect.BLOCK });
  const policy = compileProcessPolicy({ section, hasRule: true, items: [item("/bin/a")], state: LearningState.ACTIVE });
  const decision = evaluateProcess(policy, event("/bin/a", { contentState: ContentState.UNKNOWN }));
  expect(decision.effectAsked).toBe(Effect.BLOCK);
  expect(decision.effectApplied).toBe(Effect.ALERT);
});

test("a disabled section and a missing rule enforce nothing", () => {
  const section = create(ProcessSectionSchema, { effect: Effect.DISABLE, denied: [{ process: "foo" }] });
  for (const input of [
    { section, hasRule: true },
    { section: undefined, hasRule: false },
  ]) {
    const policy = compileProcessPolicy({ ...input, items: [], state: LearningState.ACTIVE });
    const decision = evaluateProcess(policy, event("/bin/foo"));
    expect(decision.isAudited).toBe(false);
    expect(decision.isLearned).toBe(false);
  }
});

test("an entry can ask for content and for parents", () => {
  const sha256 = "c".repeat(64);
  const section = create(ProcessSectionSchema, {
    effect: Effect.ALERT,
    denied: [
      { process: "/bin/a", sha256 },
      { process: "/bin/b", parents: ["/usr/sbin/*"] },
    ],
  });
  const policy = compileProcessPolicy({ section, hasRule: true, items: [], state: LearningState.ACTIVE });
  const outcome = (e: ProcessEvent) => evaluateProcess(policy, e).outcome;
  expect(outcome(event("/bin/a", { sha256 }))).toBe(Outcome.DENIAL);
  expect(outcome(event("/bin/a"))).toBe(Outcome.DEVIATION);
  expect(outcome(event("/bin/b", { parents: ["/usr/sbin/httpd"] }))).toBe(Outcome.DENIAL);
  expect(outcome(event("/bin/b", { parents: ["/bin/sh", "/usr/sbin/httpd"] }))).toBe(Outcome.DEVIATION);
});

test("the parent check asks who started a known program, where the model knows who does", () => {
  const section = create(ProcessSectionSchema, { effect: Effect.ALERT, detectors: { parent_check: {} } });
  const items = [create(ProcessFactSchema, { ...item("/bin/sh"), parentPaths: ["/usr/sbin/init"] }), item("/bin/ls")];
  const policy = compileProcessPolicy({ section, hasRule: true, items, state: LearningState.ACTIVE });
  const decide = (path: string, ...parents: string[]) => evaluateProcess(policy, event(path, { parents }));
  expect(decide("/bin/sh", "/usr/sbin/init")).toMatchObject({ outcome: Outcome.ALLOW });
  expect(decide("/bin/sh", "/usr/sbin/httpd")).toMatchObject({ outcome: Outcome.DETECTION, detector: "parent_check" });
  expect(decide("/bin/sh")).toMatchObject({ outcome: Outcome.ALLOW });
  expect(decide("/bin/ls", "/usr/sbin/httpd")).toMatchObject({ outcome: Outcome.ALLOW });
});

test("an explanation names what was passed over and what is nearest", () => {
  const section = create(ProcessSectionSchema, { effect: Effect.ALERT });
  const items = ["/usr/bin/curl", "/bin/sh", "/usr/bin/wget"].map(item);
  const policy = compileProcessPolicy({ section, hasRule: true, items, state: LearningState.ACTIVE });
  const { explanation } = evaluateProcess(policy, event("/tmp/curl"));
  expect(explanation?.passedOver).toEqual([
    "denied list: names it not",
    "detectors: names it not",
    "allowed list: names it not",
    "intelligence: names it not",
  ]);
  expect(explanation?.nearest[0]).toMatchObject({ item: "/usr/bin/curl as curl", difference: "another directory" });
});

test("the default rule alerts on everything but look-ups", () => {
  const rule = defaultRule();
  expect(rule.name).toBe("Default - alert on suspicious runtime behavior");
  expect(DEFAULT_RULE_NAME).toBe(rule.name);
  expect([rule.process, rule.network, rule.filesystem, rule.syscall].map((s) => s?.effect)).toEqual(
    Array(4).fill(Effect.ALERT),
  );
  expect(rule.dns?.effect).toBe(Effect.DISABLE);
  expect(checkRule(rule)).toEqual([]);
});

test("the first enabled rule that matches is the only one used", () => {
  const rule = (name: string, containers: string[], isDisabled = false) =>
    create(RuleSchema, { name, isDisabled, scope: { containers } });
  const rules = [rule("other", ["db"]), rule("off", ["web"], true), rule("mine", ["web"]), rule("all", [])];
  const choice = compileRuleChoice(rules)(create(ContainerSchema, { name: "web" }));
  expect(choice.rule?.name).toBe("mine");
  expect(choice.passedOver.map(({ rule: r, reason }) => [r.name, reason])).toEqual([
    ["other", "container: `web` matches none of `db`"],
    ["off", "the rule is disabled"],
  ]);
});

test("a malformed rule is refused with every fault and its place", () => {
  const rule = create(RuleSchema, {
    process: {
      allowed: [{ process: "bin/x" }],
      denied: [{ process: "ok" }, { process: "/a/../b" }],
      detectors: { dirft: {} },
    },
  });
  expect(checkRule(rule).map(({ field }) => field)).toEqual([
    "process.allowed[0].process",
    "process.denied[1].process",
    'process.detectors["dirft"]',
  ]);
});

test("a resolver is excepted by its address: a name would except nobody", () => {
  const exceptions = ["192.0.2.53", "fd00::/64", "dns.example", "192.0.2.53/33"];
  const rule = create(RuleSchema, { dns: { detectors: { foreign_resolver: { exceptions } } } });
  expect(checkRule(rule).map(({ field }) => field)).toEqual([
    'dns.detectors["foreign_resolver"].exceptions[2]',
    'dns.detectors["foreign_resolver"].exceptions[3]',
  ]);
});

test("a domain in other letters is refused with the form in which it is looked up", () => {
  const rule = create(RuleSchema, { dns: { denied: ["xn--bcher-kva.example", "*.bücher.example", "a..ü"] } });
  expect(checkRule(rule)).toEqual([
    {
      field: "dns.denied[1]",
      message: "`*.bücher.example` must be written as it is looked up, here `*.xn--bcher-kva.example`",
    },
    { field: "dns.denied[2]", message: expect.stringContaining("must be written as it is looked up") },
  ]);
});

test("a broad scope with strong permissions is warned of", () => {
  const rule = create(RuleSchema, {
    process: { effect: Effect.BLOCK, allowed: [{ process: "a" }], denied: [{ process: "a" }] },
  });
  expect(warnOfRule(rule).map(({ field }) => field)).toEqual(["scope", "process.effect", "process.allowed[0]"]);
});

test("an author is told where prevent comes too late on a kernel without BPF LSM", () => {
  const rule = create(RuleSchema, {
    name: "r",
    scope: { images: ["web"] },
    process: { effect: Effect.PREVENT, detectors: { drift: {}, crypto_miner: {}, setuid: { effect: Effect.ALERT } } },
    network: { effect: Effect.PREVENT, detectors: { raw_socket: {}, port_scan: {} } },
    filesystem: { effect: Effect.PREVENT, denied: ["/etc/passwd", "/srv/*", "/srv/*.php"], detectors: { malware: {} } },
  });
  expect(warnOfRule(rule).map(({ field }) => field)).toEqual([
    "filesystem.effect",
    "filesystem.denied[2]",
    'process.detectors["crypto_miner"]',
    'network.detectors["port_scan"]',
    'filesystem.detectors["malware"]',
  ]);
  const filesystem = create(FilesystemSectionSchema, { effect: Effect.ALERT, denied: ["/srv/*.php"] });
  const alerting = create(RuleSchema, { ...rule, filesystem });
  expect(warnOfRule(alerting).map(({ field }) => field)).not.toContain("filesystem.denied[0]");
});
