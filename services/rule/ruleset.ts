import { randomUUID } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { defaultRule } from "#core/policy/default-rule.ts";
import { checkRule } from "#core/policy/rule-check.ts";
import { type Rule, RuleSchema, type Ruleset, RulesetSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { type RuleChange, RuleChangeSchema } from "#gen/gabion/rule/v1/rule_service_pb.ts";
import type { PublishedBody } from "#lib/bus/head-publisher.ts";
import { RULESET_KEY } from "#lib/bus/topology.ts";
import { type FieldFault, invalidRequest, notFound, staleEtag } from "#lib/rpc/errors.ts";

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

function stamp(rule: Rule, before: Rule | undefined, author: Author): Rule {
  const revision = (before?.revision ?? 0n) + 1n;
  return create(RuleSchema, {
    ...rule,
    ruleId: before?.ruleId ?? `r-${randomUUID()}`,
    revision,
    etag: `r${revision}`,
    createTime: before?.createTime ?? timestampFromMs(author.nowMs),
    updateTime: timestampFromMs(author.nowMs),
    updateBy: author.name,
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

function next(
  ruleset: Ruleset,
  rules: readonly Rule[],
  author: Author,
  action: string,
  before?: Rule,
  after?: Rule,
): RulesetChange {
  const revision = ruleset.revision + 1n;
  const change = create(RuleChangeSchema, {
    rulesetRevision: revision,
    changeTime: timestampFromMs(author.nowMs),
    changeBy: author.name,
    action,
    ...(before ? { before } : {}),
    ...(after ? { after } : {}),
  });
  const changed = create(RulesetSchema, { revision, rules: [...rules], updateTime: timestampFromMs(author.nowMs) });
  const size = toBinary(RulesetSchema, changed).length;
  if (size > RULESET_MAX_BYTES) {
    const message = `all rules together would take ${size} bytes; agents take in ${RULESET_MAX_BYTES}`;
    throw invalidRequest([{ field: "rule", message }]);
  }
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
  const stamped = stamp(rule, undefined, author);
  return next(ruleset, ruleset.rules.toSpliced(position, 0, stamped), author, "create", undefined, stamped);
}

/** Replaces a rule in its place. */
export function replaceRule(ruleset: Ruleset, rule: Rule, author: Author): RulesetChange {
  const before = findRule(ruleset, rule.ruleId, rule.etag);
  check(ruleset, rule);
  const stamped = stamp(rule, before, author);
  return next(
    ruleset,
    ruleset.rules.map((r) => (r === before ? stamped : r)),
    author,
    "update",
    before,
    stamped,
  );
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
  const moved = stamp(before, before, author);
  return next(ruleset, others.toSpliced(position, 0, moved), author, "move", before, moved);
}

/** Removes a rule. */
export function removeRule(ruleset: Ruleset, ruleId: string, etag: string, author: Author): RulesetChange {
  const before = findRule(ruleset, ruleId, etag);
  return next(
    ruleset,
    ruleset.rules.filter((r) => r !== before),
    author,
    "delete",
    before,
  );
}
