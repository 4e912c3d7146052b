import { create, type JsonValue, toJson } from "@bufbuild/protobuf";
import { plainRule } from "#core/policy/plain-rule.ts";
import { type Rule, RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { type RuleChange, type RuleStep, RuleStepSchema } from "#gen/gabion/rule/v1/rule_service_pb.ts";

function sorted(value: JsonValue): JsonValue {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, each]) => [key, sorted(each)]));
}

/** Equal texts mean that two rules were written alike. */
export function contentOf(rule: Rule): string {
  return JSON.stringify(sorted(toJson(RuleSchema, plainRule(rule))));
}

/** What a rule does and to whom: changes of it begin a roll-out anew, a new name or place does not. */
export function actingContentOf(rule: Rule): string {
  return contentOf(create(RuleSchema, { ...rule, name: "", description: "", isDisabled: false }));
}

/** A rule as it is to be: one that is there already, by its identity, or a new one. */
export interface WantedRule {
  readonly rule: Rule;
  readonly ruleId: string;
}

interface Editing {
  readonly rules: Rule[];
  readonly steps: RuleStep[];
  /** Gives a rule what the service sets. */
  readonly stamp: (rule: Rule, before: Rule | undefined) => Rule;
}

function note(steps: RuleStep[], action: string, of: Partial<Omit<RuleStep, "$typeName" | "action">>): void {
  const { before, after, positionBefore = 0, positionAfter = 0 } = of;
  const rules = { ...(before ? { before } : {}), ...(after ? { after } : {}) };
  steps.push(create(RuleStepSchema, { action, positionBefore, positionAfter, ...rules }));
}

function move({ rules, steps }: Editing, from: number, to: number): void {
  const [moved] = rules.splice(from, 1) as [Rule];
  rules.splice(to, 0, moved);
  note(steps, "move", { before: moved, after: moved, positionBefore: from, positionAfter: to });
}

/** Brings the wanted rule to its place. */
function place(editing: Editing, wanted: WantedRule, index: number, placeOf: ReadonlyMap<string, number>): void {
  const { rules, steps, stamp } = editing;
  if (wanted.ruleId !== "" && rules[index]?.ruleId === wanted.ruleId) return;
  if (wanted.ruleId === "" || !rules.some(({ ruleId }) => ruleId === wanted.ruleId)) {
    const after = stamp(wanted.rule, undefined);
    rules.splice(index, 0, after);
    note(steps, "create", { after, positionAfter: index });
    return;
  }
  const inItsPlace = rules[index];
  const later = inItsPlace && placeOf.get(inItsPlace.ruleId);
  // Where the next one is the wanted one, the one before it goes where it belongs.
  if (later !== undefined && rules[index + 1]?.ruleId === wanted.ruleId) {
    move(editing, index, Math.min(later, rules.length - 1));
    return;
  }
  move(
    editing,
    rules.findIndex(({ ruleId }) => ruleId === wanted.ruleId),
    index,
  );
}

/** Steps that make rules the wanted ones, and the rules after them. */
export function stepsTo(
  current: readonly Rule[],
  wanted: readonly WantedRule[],
  stamp: Editing["stamp"],
): { readonly rules: readonly Rule[]; readonly steps: readonly RuleStep[] } {
  const editing: Editing = { rules: [...current], steps: [], stamp };
  const { rules, steps } = editing;
  const placeOf = new Map(wanted.map(({ ruleId }, index) => [ruleId, index] as const));
  for (let at = rules.length - 1; at >= 0; at -= 1) {
    const before = rules[at] as Rule;
    if (placeOf.has(before.ruleId)) continue;
    rules.splice(at, 1);
    note(steps, "delete", { before, positionBefore: at });
  }
  wanted.forEach((each, index) => {
    place(editing, each, index, placeOf);
    const before = rules[index] as Rule;
    if (each.ruleId === "" || contentOf(before) === contentOf(each.rule)) return;
    const after = stamp(each.rule, before);
    rules[index] = after;
    note(steps, "update", { before, after, positionBefore: index, positionAfter: index });
  });
  return { rules, steps };
}

/** Steps of a change, whether it was of one rule or of several. */
function stepsOf(change: RuleChange): readonly RuleStep[] {
  if (change.steps.length > 0) return change.steps;
  const { action, before, after, positionBefore, positionAfter } = change;
  const kind = ["create", "delete", "move"].includes(action) ? action : "update";
  const rules = { ...(before ? { before } : {}), ...(after ? { after } : {}) };
  return [create(RuleStepSchema, { action: kind, positionBefore, positionAfter, ...rules })];
}

function undoStep(rules: Rule[], { action, before, positionBefore, positionAfter }: RuleStep): void {
  if (action !== "delete") rules.splice(positionAfter, 1);
  if (before) rules.splice(positionBefore, 0, before);
}

/** The rules before a change. */
export function undone(rules: readonly Rule[], change: RuleChange): Rule[] {
  const before = [...rules];
  for (const step of stepsOf(change).toReversed()) undoStep(before, step);
  return before;
}
