import type { Rule } from "#gen/gabion/rule/v1/rule_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import { compileScope, compileScopeMatch, scopeTexts } from "../matching/scope.ts";

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
 * nothing is enforced. Why those before it do not match is worked out where it is read.
 */
export function compileRuleChoice(rules: readonly Rule[]): RuleChooser {
  const compiled = rules.map((rule) => ({ rule, matches: compileScopeMatch(rule.scope) }));
  return (container) => {
    const texts = scopeTexts(container);
    const at = compiled.findIndex(({ rule, matches }) => !rule.isDisabled && matches(texts));
    const before = at < 0 ? rules : rules.slice(0, at);
    return {
      rule: rules[at],
      get passedOver() {
        return before.map((rule) => ({ rule, reason: reasonAgainst(rule, container) }));
      },
    };
  };
}

function reasonAgainst(rule: Rule, container: Container): string {
  if (rule.isDisabled) return "the rule is disabled";
  const answer = compileScope(rule.scope)(container);
  return answer.isMatch ? "" : answer.reason;
}
