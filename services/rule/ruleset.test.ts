import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { addRule, firstRuleset, moveRule, removeRule, replaceRule } from "./ruleset.ts";

const ann = { name: "operator/ann", nowMs: 1_000 };
const rule = (name: string) => create(RuleSchema, { name, process: { effect: Effect.ALERT } });
const names = (set: { rules: { name: string }[] }) => set.rules.map((r) => r.name);

test("a new installation has the default rule alone", () => {
  expect(names(firstRuleset(ann))).toEqual(["Default - alert on suspicious runtime behavior"]);
});

test("rules are added first, moved, replaced and removed; each change has its revision, author and history", () => {
  const first = firstRuleset(ann);
  const a = addRule(first, rule("a"), 0, ann);
  const b = addRule(a.ruleset, rule("b"), 0, ann);
  expect(names(b.ruleset).slice(0, 2)).toEqual(["b", "a"]);
  const [ruleB, ruleA] = b.ruleset.rules;
  if (!ruleA || !ruleB) throw new Error("rules are missing");
  const moved = moveRule(b.ruleset, ruleA.ruleId, 0, ruleA.etag, ann);
  expect(names(moved.ruleset).slice(0, 2)).toEqual(["a", "b"]);
  const replaced = replaceRule(moved.ruleset, create(RuleSchema, { ...ruleB, description: "new" }), ann);
  expect(replaced.rule).toMatchObject({ description: "new", revision: 2n, updateBy: "operator/ann" });
  expect(replaced.change).toMatchObject({ action: "update", changeBy: "operator/ann", before: { description: "" } });
  const removed = removeRule(replaced.ruleset, ruleB.ruleId, replaced.rule?.etag ?? "", ann);
  expect(names(removed.ruleset)).not.toContain("b");
  expect(removed.ruleset.revision).toBe(first.revision + 5n);
});

test("a stale etag is refused", () => {
  const { ruleset, rule: made } = addRule(firstRuleset(ann), rule("a"), 0, ann);
  if (!made) throw new Error("no rule was made");
  const changed = replaceRule(ruleset, made, ann).ruleset;
  expect(() => replaceRule(changed, made, ann)).toThrow(/was changed since it was read/);
  expect(() => removeRule(changed, made.ruleId, "r1", ann)).toThrow(/was changed/);
});

test("names are unique, and every fault is told at once", () => {
  const { ruleset } = addRule(firstRuleset(ann), rule("a"), 0, ann);
  const bad = create(RuleSchema, { name: "a", process: { effect: Effect.ALERT, denied: [{ process: "x/y" }] } });
  expect(() => addRule(ruleset, bad, 9, ann)).toThrow(/position.*rule\.name.*rule\.process\.denied\[0\]\.process/);
});
