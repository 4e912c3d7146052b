import type { RuleFault } from "#core/policy/rule-check.ts";
import { compileRuleChoice } from "#core/policy/rule-choice.ts";
import { entriesInModels } from "#core/policy/rule-needless.ts";
import type { ModelPolicy } from "#gen/gabion/model/v1/model_pb.ts";
import type { Rule } from "#gen/gabion/rule/v1/rule_pb.ts";
import type { FleetView } from "./fleet-view.ts";

/** Models that are asked for; a rule whose containers have further ones is left out. */
const MODELS_MAX = 200;

/** Entries of each rule that the models of its running containers hold already. */
export async function knownEntries(rules: readonly Rule[], fleet: FleetView): Promise<Map<Rule, RuleFault[]>> {
  const choose = compileRuleChoice(rules);
  const byRule = Map.groupBy(await fleet.containers(), (container) => choose(container).rule);
  const asked = new Map<string, ModelPolicy | undefined>();
  const found = new Map<Rule, RuleFault[]>();
  for (const [rule, own] of byRule) {
    const keys = [...new Set(own.map(({ modelKey }) => modelKey))];
    if (!rule || asked.size + keys.length > MODELS_MAX) continue;
    for (const key of keys) if (!asked.has(key)) asked.set(key, (await fleet.model(key)).policy);
    const models = keys.flatMap((key) => asked.get(key) ?? []);
    if (models.length === keys.length) found.set(rule, entriesInModels(rule, models));
  }
  return found;
}
