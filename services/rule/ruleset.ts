import { randomUUID } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { defaultRule } from "#core/policy/default-rule.ts";
import { plainRollOut, plainRule } from "#core/policy/plain-rule.ts";
import { checkRule } from "#core/policy/rule-check.ts";
import {
  type RollOut,
  RollOutSchema,
  type Rule,
  RuleSchema,
  type Ruleset,
  RulesetSchema,
} from "#gen/gabion/rule/v1/rule_pb.ts";
import { type RuleChange, RuleChangeSchema, type RuleStep } from "#gen/gabion/rule/v1/rule_service_pb.ts";
import type { PublishedBody } from "#lib/bus/head-publisher.ts";
import { RULESET_KEY } from "#lib/bus/topology.ts";
import { type FieldFault, invalidRequest, notFound, staleEtag } from "#lib/rpc/errors.ts";
import { actingContentOf, stepsTo, undone, type WantedRule } from "./steps.ts";

/** Who changes, and when. */
export interface Author {
  readonly name: string;
  readonly nowMs: number;
}

/** What a change did: the set after it, and the rule before and after. */
export interface RulesetChange {
  readonly ruleset: Ruleset;
  readonly rule: Rule | undefined;
  readonly change: RuleChange;
}

/** The whole set must fit into one message to an agent. */
const RULESET_MAX_BYTES = 3 * 1024 * 1024;
/** Rules in one installation. */
const RULES_MAX = 10_000;

/** Serialized set as agents fetch it. */
export function publishedRuleset(ruleset: Ruleset): PublishedBody {
  return { key: RULESET_KEY, revision: ruleset.revision, body: toBinary(RulesetSchema, ruleset) };
}

/** A roll-out begins anew where the rule does something else than before. */
function stampRollOut(rule: Rule, before: Rule | undefined, author: Author): RollOut | undefined {
  if (!rule.rollOut) return undefined;
  const isAsBefore = before?.rollOut !== undefined && actingContentOf(before) === actingContentOf(rule);
  if (isAsBefore) return before.rollOut;
  return create(RollOutSchema, { ...plainRollOut(rule.rollOut), stageTime: timestampFromMs(author.nowMs) });
}

function stamp(rule: Rule, before: Rule | undefined, author: Author): Rule {
  const revision = (before?.revision ?? 0n) + 1n;
  const rollOut = stampRollOut(rule, before, author);
  return create(RuleSchema, {
    ...plainRule(rule),
    ruleId: before?.ruleId ?? `r-${randomUUID()}`,
    revision,
    etag: `r${revision}`,
    createTime: before?.createTime ?? timestampFromMs(author.nowMs),
    updateTime: timestampFromMs(author.nowMs),
    updateBy: author.name,
    ...(rollOut ? { rollOut } : {}),
  });
}

/**
 * The set of a new installation: the default rule alone. Its revision comes from the clock, so that after a loss of the
 * store agents do not take the new set for an old one.
 */
export function firstRuleset(author: Author): Ruleset {
  const rules = [stamp(defaultRule(), undefined, author)];
  return create(RulesetSchema, { revision: BigInt(author.nowMs), rules, updateTime: timestampFromMs(author.nowMs) });
}

function checkSize(ruleset: Ruleset): void {
  const size = toBinary(RulesetSchema, ruleset).length;
  if (size <= RULESET_MAX_BYTES) return;
  const message = `all rules together would take ${size} bytes; agents take in ${RULESET_MAX_BYTES}`;
  throw invalidRequest([{ field: "rule", message }]);
}

/** What one change was: of one rule, or of several by steps. */
type ChangeOf = Pick<RuleChange, "action"> &
  Partial<Pick<RuleChange, "before" | "after" | "steps" | "positionBefore" | "positionAfter">>;

function next(ruleset: Ruleset, rules: readonly Rule[], author: Author, of: ChangeOf): RulesetChange {
  const revision = ruleset.revision + 1n;
  const changeTime = timestampFromMs(author.nowMs);
  const { before, after, ...rest } = of;
  const change = create(RuleChangeSchema, {
    ...rest,
    rulesetRevision: revision,
    changeTime,
    changeBy: author.name,
    ...(before ? { before } : {}),
    ...(after ? { after } : {}),
  });
  const changed = create(RulesetSchema, { revision, rules: [...rules], updateTime: changeTime });
  checkSize(changed);
  return { ruleset: changed, rule: after, change };
}

function nameFaults(ruleset: Ruleset, rule: Rule): FieldFault[] {
  const twin = ruleset.rules.find((r) => r.name === rule.name && r.ruleId !== rule.ruleId);
  return twin ? [{ field: "rule.name", message: `\`${rule.name}\` is the name of another rule` }] : [];
}

function check(ruleset: Ruleset, rule: Rule, more: readonly FieldFault[] = []): void {
  const faults = checkRule(rule).map(({ field, message }) => ({ field: `rule.${field}`, message }));
  const all = [...more, ...nameFaults(ruleset, rule), ...faults];
  if (all.length > 0) throw invalidRequest(all);
}

function findRule(ruleset: Ruleset, ruleId: string, etag: string): Rule {
  const rule = ruleset.rules.find((r) => r.ruleId === ruleId);
  if (!rule) throw notFound("rule", ruleId);
  if (rule.etag !== etag) throw staleEtag(`rule \`${rule.name}\``);
  return rule;
}

/** Adds a rule at a place, by default before all others. */
export function addRule(ruleset: Ruleset, rule: Rule, position: number, author: Author): RulesetChange {
  const own: FieldFault[] = rule.ruleId === "" ? [] : [{ field: "rule.rule_id", message: "is set by the service" }];
  const full =
    ruleset.rules.length >= RULES_MAX ? [{ field: "rule", message: `there are ${RULES_MAX} rules already` }] : [];
  const far =
    position > ruleset.rules.length ? [{ field: "position", message: `there are ${ruleset.rules.length} rules` }] : [];
  check(ruleset, rule, [...own, ...full, ...far]);
  const after = stamp(rule, undefined, author);
  const rules = ruleset.rules.toSpliced(position, 0, after);
  return next(ruleset, rules, author, { action: "create", after, positionAfter: position });
}

/** Puts a rule in the place of the one before. */
function inPlace(ruleset: Ruleset, before: Rule, after: Rule, author: Author, action: string): RulesetChange {
  const position = ruleset.rules.indexOf(before);
  const rules = ruleset.rules.with(position, after);
  return next(ruleset, rules, author, {
    action,
    before,
    after,
    positionBefore: position,
    positionAfter: position,
  });
}

/** Replaces a rule in its place. */
export function replaceRule(ruleset: Ruleset, rule: Rule, author: Author): RulesetChange {
  const before = findRule(ruleset, rule.ruleId, rule.etag);
  check(ruleset, rule);
  return inPlace(ruleset, before, stamp(rule, before, author), author, "update");
}

/** Moves a rule; the others keep their order. */
export function moveRule(
  ruleset: Ruleset,
  ruleId: string,
  position: number,
  etag: string,
  author: Author,
): RulesetChange {
  const before = findRule(ruleset, ruleId, etag);
  if (position >= ruleset.rules.length) {
    throw invalidRequest([
      { field: "position", message: `must be below ${ruleset.rules.length}, the number of rules` },
    ]);
  }
  const others = ruleset.rules.filter((r) => r !== before);
  const after = stamp(before, before, author);
  const rules = others.toSpliced(position, 0, after);
  const positionBefore = ruleset.rules.indexOf(before);
  return next(ruleset, rules, author, { action: "move", before, after, positionBefore, positionAfter: position });
}

/** Removes a rule. */
export function removeRule(ruleset: Ruleset, ruleId: string, etag: string, author: Author): RulesetChange {
  const before = findRule(ruleset, ruleId, etag);
  const rules = ruleset.rules.filter((r) => r !== before);
  return next(ruleset, rules, author, { action: "delete", before, positionBefore: ruleset.rules.indexOf(before) });
}

/** Faults of rules that are to be all there are. */
function faultsOfAll(rules: readonly Rule[]): FieldFault[] {
  const names = new Map<string, number>();
  return rules.flatMap((rule, index) => {
    const place = `rules[${index}]`;
    const twin = names.get(rule.name);
    names.set(rule.name, twin ?? index);
    return [
      ...(rule.ruleId === "" ? [] : [{ field: `${place}.rule_id`, message: "is set by the service: leave it out" }]),
      ...(rule.name === "" ? [{ field: `${place}.name`, message: "must be given" }] : []),
      ...(twin === undefined
        ? []
        : [{ field: `${place}.name`, message: `\`${rule.name}\` is the name of \`rules[${twin}]\` too` }]),
      ...checkRule(rule).map(({ field, message }) => ({ field: `${place}.${field}`, message })),
    ];
  });
}

/** A change of the whole set; without steps everything is so already. */
export interface WholeChange {
  readonly steps: readonly RuleStep[];
  readonly change: RulesetChange | undefined;
}

function wholeChange(
  ruleset: Ruleset,
  wanted: readonly WantedRule[],
  author: Author,
  action: string,
  lost: ReadonlyMap<string, Rule> = new Map(),
): WholeChange {
  const { rules, steps } = stepsTo(ruleset.rules, wanted, (rule, before) => {
    const known = lost.get(rule.ruleId);
    if (!known) return stamp(rule, before, author);
    // One that comes back gets a revision that it never had: nodes tell what they hold by it.
    const revision = ruleset.revision + 1n;
    return create(RuleSchema, { ...stamp(rule, known, author), revision, etag: `r${revision}` });
  });
  return {
    steps,
    change: steps.length === 0 ? undefined : next(ruleset, rules, author, { action, steps: [...steps] }),
  };
}

/** Makes the rules those that are given, in their order. A rule is the one that has its name. */
export function applyRules(
  ruleset: Ruleset,
  rules: readonly Rule[],
  expectedRevision: bigint,
  author: Author,
): WholeChange {
  if (expectedRevision !== 0n && expectedRevision !== ruleset.revision) throw staleEtag("the rule set");
  const faults = faultsOfAll(rules);
  if (faults.length > 0) throw invalidRequest(faults);
  const idOf = new Map(ruleset.rules.map(({ name, ruleId }) => [name, ruleId] as const));
  const wanted = rules.map((rule) => ({ rule, ruleId: idOf.get(rule.name) ?? "" }));
  return wholeChange(ruleset, wanted, author, "apply");
}

/** Makes the rules, or one of them, what they were before the given changes, which stand newest first. */
export function restoreRules(
  ruleset: Ruleset,
  later: readonly RuleChange[],
  ruleId: string,
  author: Author,
): WholeChange {
  const target = later.reduce<readonly Rule[]>(undone, ruleset.rules);
  const current = new Set(ruleset.rules.map((rule) => rule.ruleId));
  const lost = new Map(target.filter((rule) => !current.has(rule.ruleId)).map((rule) => [rule.ruleId, rule] as const));
  if (ruleId === "") return wholeChange(ruleset, target.map(wantedAs), author, "restore", lost);
  const old = target.find((rule) => rule.ruleId === ruleId);
  if (!old) throw notFound("rule at that revision", ruleId);
  const others = ruleset.rules.map((rule) => wantedAs(rule.ruleId === ruleId ? old : rule));
  const wanted = current.has(ruleId) ? others : [...others, wantedAs(old)];
  const names = nameFaults(create(RulesetSchema, { rules: wanted.map(({ rule }) => rule) }), old);
  if (names.length > 0) throw invalidRequest(names);
  return wholeChange(ruleset, wanted, author, "restore", lost);
}

function wantedAs(rule: Rule): WantedRule {
  return { rule, ruleId: rule.ruleId };
}

/** Where a roll-out goes on to. */
export type RollOutStep = { readonly stage: number } | { readonly haltReason: string };

/** Takes a rule's roll-out a step further, back to its beginning, or halts it. */
export function stepRollOut(ruleset: Ruleset, ruleId: string, step: RollOutStep, author: Author): RulesetChange {
  const before = ruleset.rules.find((rule) => rule.ruleId === ruleId);
  if (!before) throw notFound("rule", ruleId);
  if (!before.rollOut) throw invalidRequest([{ field: "rule", message: `\`${before.name}\` has no roll-out` }]);
  const isHalt = "haltReason" in step;
  const stageTime = timestampFromMs(author.nowMs);
  const rollOut = create(RollOutSchema, {
    ...before.rollOut,
    stageTime,
    isHalted: isHalt,
    haltReason: isHalt ? step.haltReason : "",
    ...(isHalt ? {} : { stage: step.stage }),
  });
  const after = create(RuleSchema, { ...stamp(before, before, author), rollOut });
  return inPlace(ruleset, before, after, author, isHalt ? "halt" : "roll-out");
}
