import type { Rule } from "#gen/gabion/rule/v1/rule_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import { type CompiledScope, compileScope } from "../matching/scope.ts";

/** A rule that was tried and does not apply, and why. */
export interface PassedOver {
  readonly rule: Rule;
  readonly reason: string;
}

/** The one rule that a container gets, and those before it. */
export interface RuleChoice {
  readonly rule: Rule | undefined;
  readonly passedOver: readonly PassedOver[];
}

export type RuleChooser = (container: Container) => RuleChoice;

/**
 * Compiles rules in their order. The first enabled rule whose scope matches is the only one used; where none matches,
 * nothing is enforced.
 */
export function compileRuleChoice(rules: readonly Rule[]): RuleChooser {
  const compiled = rules.map((rule): [Rule, CompiledScope] => [rule, compileScope(rule.scope)]);
  return (container) => {
    const passedOver: PassedOver[] = [];
    for (const [rule, scope] of compiled) {
      const answer = rule.isDisabled ? ({ isMatch: false, reason: "the rule is disabled" } as const) : scope(container);
      if (answer.isMatch) return { rule, passedOver };
      passedOver.push({ rule, reason: answer.reason });
    }
    return { rule: undefined, passedOver };
  };
}
