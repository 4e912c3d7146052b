import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { ProcessSectionSchema, type Rule, RuleSchema, type Ruleset } from "#gen/gabion/rule/v1/rule_pb.ts";
import type { RuleChange } from "#gen/gabion/rule/v1/rule_service_pb.ts";
import {
  addRule,
  applyRules,
  firstRuleset,
  moveRule,
  removeRule,
  replaceRule,
  restoreRules,
  stepRollOut,
  type WholeChange,
} from "./ruleset.ts";
import { contentOf } from "./steps.ts";

const ann = { name: "operator/ann", nowMs: 1_000 };
const plain = (name: string, effect: Effect = Effect.ALERT) => create(RuleSchema, { name, process: { effect } });
const texts = (rules: readonly Rule[]) => rules.map((rule) => contentOf(rule));

function applied(set: Ruleset, rules: readonly Rule[]): WholeChange {
  return applyRules(set, rules, 0n, ann);
}

const names = fc.uniqueArray(fc.constantFrom("a", "b", "c", "d", "e", "f"), { maxLength: 6 });
const effects = fc.constantFrom(Effect.ALERT, Effect.PREVENT);
const wanted = names.chain((list) => fc.tuple(...list.map((name) => effects.map((effect) => plain(name, effect)))));

test("whatever rules there are, the given ones are what remains, and undoing brings back what was", () => {
  fc.assert(
    fc.property(fc.array(wanted, { minLength: 1, maxLength: 4 }), (sets) => {
      let set = firstRuleset(ann);
      const history: { ruleset: Ruleset; change: RuleChange }[] = [];
      const before = [set];
      for (const rules of sets) {
        const { change } = applied(set, rules);
        if (change) {
          history.unshift(change);
          set = change.ruleset;
          before.push(set);
        }
        expect(texts(set.rules)).toEqual(texts(rules));
        expect(applied(set, rules).steps).toEqual([]);
      }
      const first = before[0] as Ruleset;
      const restored = restoreRules(
        set,
        history.map(({ change }) => change),
        "",
        ann,
      );
      expect(texts((restored.change?.ruleset ?? set).rules)).toEqual(texts(first.rules));
      expect((restored.change?.ruleset ?? set).rules.map(({ ruleId }) => ruleId)).toEqual(
        first.rules.map(({ ruleId }) => ruleId),
      );
    }),
    { numRuns: 300 },
  );
});

test("single changes are undone as well, in their places", () => {
  let set = firstRuleset(ann);
  const history: RuleChange[] = [];
  const run = (make: (set: Ruleset) => { ruleset: Ruleset; change: RuleChange }) => {
    const { ruleset, change } = make(set);
    set = ruleset;
    history.unshift(change);
  };
  run((s) => addRule(s, plain("a"), 0, ann));
  run((s) => addRule(s, plain("b"), 1, ann));
  const then = texts(set.rules);
  const ruleNamed = (name: string) => set.rules.find((rule) => rule.name === name) as Rule;
  run((s) => moveRule(s, ruleNamed("b").ruleId, 0, ruleNamed("b").etag, ann));
  run((s) => replaceRule(s, create(RuleSchema, { ...ruleNamed("a"), description: "x" }), ann));
  const lost = ruleNamed("a");
  run((s) => removeRule(s, lost.ruleId, lost.etag, ann));
  const { change, steps } = restoreRules(set, history.slice(0, 3), "", ann);
  expect(texts(change?.ruleset.rules ?? [])).toEqual(then);
  expect(steps.map(({ action }) => action)).toEqual(["create"]);
  const again = change?.ruleset.rules.find(({ ruleId }) => ruleId === lost.ruleId);
  expect(again?.revision).toBeGreaterThan(lost.revision);
});

test("one rule is restored alone", () => {
  const a = addRule(firstRuleset(ann), plain("a"), 0, ann);
  const rule = a.rule as Rule;
  const changed = replaceRule(a.ruleset, create(RuleSchema, { ...rule, description: "x" }), ann);
  const b = addRule(changed.ruleset, plain("b"), 0, ann);
  const { change } = restoreRules(b.ruleset, [b.change, changed.change], rule.ruleId, ann);
  expect(change?.ruleset.rules.map(({ name, description }) => `${name}${description}`).slice(0, 2)).toEqual(["b", "a"]);
});

test("rules that are to be all there are, are refused whole with every fault", () => {
  const set = firstRuleset(ann);
  const bad = [
    plain("a"),
    plain("a"),
    create(RuleSchema, { name: "b", ruleId: "r-1", syscall: { effect: Effect.ALERT, denied: ["nope"] } }),
  ];
  expect(() => applied(set, bad)).toThrow(
    /rules\[1\]\.name: `a` is the name of `rules\[0\]` too; rules\[2\]\.rule_id: .*; rules\[2\]\.syscall\.denied\[0\]: `nope` is no system call/,
  );
});

test("a plan that was made for another revision is refused", () => {
  const set = firstRuleset(ann);
  expect(() => applyRules(set, [], set.revision - 1n, ann)).toThrow(/was changed since it was read/);
  expect(applyRules(set, [], set.revision, ann).steps.map(({ action }) => action)).toEqual(["delete"]);
});

test("taking the first rule to the end is one move", () => {
  const set = ["d", "c", "b", "a"].reduce((s, name) => addRule(s, plain(name), 0, ann).ruleset, firstRuleset(ann));
  const [a, b, c, d, last] = set.rules.map((rule) => plain(rule.name));
  const { steps } = applied(set, [b, c, d, a, create(RuleSchema, { ...last, ...defaultOf(set) })] as Rule[]);
  expect(steps.map(({ action, before, positionAfter }) => `${action} ${before?.name} ${positionAfter}`)).toEqual([
    "move a 3",
  ]);
});

function defaultOf(set: Ruleset): Rule {
  const { ruleId: _, etag: __, ...rest } = set.rules.at(-1) as Rule;
  return create(RuleSchema, { ...rest, ruleId: "", etag: "", revision: 0n });
}

test("a roll-out begins with its first stage, goes on, halts, and begins anew when the rule does something else", () => {
  const rollOut = { percents: [10, 100], dwell: { seconds: 60n }, maxStops: 1 };
  const first = addRule(
    firstRuleset(ann),
    create(RuleSchema, { name: "a", process: { effect: Effect.BLOCK }, rollOut }),
    0,
    ann,
  );
  const rule = first.rule as Rule;
  expect(rule.rollOut).toMatchObject({ stage: 0, isHalted: false });
  const second = stepRollOut(first.ruleset, rule.ruleId, { stage: 1 }, ann);
  expect(second.rule?.rollOut).toMatchObject({ stage: 1 });
  const renamed = replaceRule(second.ruleset, create(RuleSchema, { ...(second.rule as Rule), name: "z" }), ann);
  expect(renamed.rule?.rollOut).toMatchObject({ stage: 1 });
  const halted = stepRollOut(renamed.ruleset, rule.ruleId, { haltReason: "too many" }, ann);
  expect(halted.rule?.rollOut).toMatchObject({ isHalted: true, haltReason: "too many" });
  expect(halted.change.action).toBe("halt");
  const process = create(ProcessSectionSchema, { effect: Effect.PREVENT });
  const other = create(RuleSchema, { ...(halted.rule as Rule), process });
  expect(replaceRule(halted.ruleset, other, ann).rule?.rollOut).toMatchObject({ stage: 0, isHalted: false });
});
