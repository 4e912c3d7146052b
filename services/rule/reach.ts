import { create } from "@bufbuild/protobuf";
import { compileScope, compileScopeMatch, scopeTexts } from "#core/matching/scope.ts";
import { isArmed } from "#core/policy/roll-out.ts";
import type { RuleFault } from "#core/policy/rule-check.ts";
import { compileRuleChoice } from "#core/policy/rule-choice.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { Node } from "#gen/gabion/fleet/v1/fleet_pb.ts";
import { Delivery, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { type Rule, type Ruleset, ScopeSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import {
  type ArmedEffect,
  ArmedEffectSchema,
  type GetArmingResponse,
  GetArmingResponseSchema,
  type GetConvergenceResponse,
  GetConvergenceResponseSchema,
  type ListCoverageResponse,
  ListCoverageResponseSchema,
  NodesAtRevisionSchema,
} from "#gen/gabion/rule/v1/rule_service_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";

const COVERED_MAX = 10_000;
const SHOWN = 10;

/** Which revision each node enforces. Nodes that are not connected do not hold the answer up. */
export function convergenceOf(ruleset: Ruleset, nodes: readonly Node[]): GetConvergenceResponse {
  const revisionOf = (node: Node) => node.hello?.enforced?.rulesetRevision ?? 0n;
  const byRevision = Map.groupBy(nodes, revisionOf);
  const revisions = [...byRevision]
    .sort(([a], [b]) => (a < b ? 1 : -1))
    .map(([rulesetRevision, own]) =>
      create(NodesAtRevisionSchema, {
        rulesetRevision,
        nodeCount: own.length,
        nodeIds: own.slice(0, SHOWN).map(({ nodeId }) => nodeId),
        disconnectedCount: own.filter(({ isConnected }) => !isConnected).length,
      }),
    );
  return create(GetConvergenceResponseSchema, {
    rulesetRevision: ruleset.revision,
    ...(ruleset.updateTime ? { changeTime: ruleset.updateTime } : {}),
    revisions,
    isConverged: nodes.every((node) => !node.isConnected || revisionOf(node) >= ruleset.revision),
  });
}

/** The rules with a draft among them: in the place of the one with its identity, or at a place of its own. */
export function withDraft(rules: readonly Rule[], draft: Rule, position: number): Rule[] {
  const at = rules.findIndex((rule) => rule.ruleId === draft.ruleId || rule.name === draft.name);
  return at < 0 ? rules.toSpliced(Math.min(position, rules.length), 0, draft) : rules.with(at, draft);
}

/** Label patterns that no running container has anything for: often `key=value` was meant, and `key:value` is right. */
export function unknownLabels(rule: Rule, containers: readonly Container[]): RuleFault[] {
  const labels = rule.scope?.labels ?? [];
  return labels.flatMap((pattern, i) => {
    const alone = compileScopeMatch(create(ScopeSchema, { labels: [pattern.replace(/^-/, "")] }));
    if (containers.length === 0 || containers.some((container) => alone(scopeTexts(container)))) return [];
    const message = `no container that runs now has a label that \`${pattern}\` matches; labels are written \`key:value\``;
    return [{ field: `scope.labels[${i}]`, message }];
  });
}

/** The containers that a rule names, and which of them it gets. */
export function coverageOf(rules: readonly Rule[], rule: Rule, containers: readonly Container[]): ListCoverageResponse {
  const scope = compileScope(rule.scope);
  const choose = compileRuleChoice(rules);
  const named = containers.filter((container) => scope(container).isMatch);
  const chosen = named.map((container) => ({ container, gets: choose(container).rule }));
  return create(ListCoverageResponseSchema, {
    containers: chosen.slice(0, COVERED_MAX).map(({ container, gets }) => ({
      container,
      isApplied: gets === rule,
      otherRuleName: gets === undefined || gets === rule ? "" : gets.name,
    })),
    runningCount: containers.length,
    appliedCount: chosen.filter(({ gets }) => gets === rule).length,
    isCut: chosen.length > COVERED_MAX,
  });
}

/** Effects that a rule asks for, by section. */
function effectsOf(rule: Rule): (readonly [Section, Effect])[] {
  const sections = [
    [Section.PROCESS, rule.process],
    [Section.NETWORK, rule.network],
    [Section.DNS, rule.dns],
    [Section.FILESYSTEM, rule.filesystem],
    [Section.SYSCALL, rule.syscall],
  ] as const;
  return sections.flatMap(([section, part]) => {
    if (!part || part.effect === Effect.DISABLE) return [];
    const own = "detectors" in part ? Object.values(part.detectors).map(({ effect }) => effect) : [];
    const asked = new Set([part.effect, ...own]);
    return [Effect.ALERT, Effect.PREVENT, Effect.BLOCK]
      .filter((effect) => asked.has(effect))
      .map((effect) => [section, effect] as const);
  });
}

/** How the nodes deliver what a rule asks for. */
export function armingOf(rule: Rule, all: readonly Node[]): GetArmingResponse {
  const nodes = all.filter(({ isConnected }) => isConnected);
  const armed = nodes.filter(({ nodeId }) => isArmed(rule, nodeId));
  const effects = effectsOf(rule).flatMap(([section, effect]): ArmedEffect[] => {
    const told = nodes.map((node) => {
      const known = node.hello?.capabilities?.effects.find(
        (each) => each.section === section && each.effect === effect,
      );
      return { node, delivery: known?.delivery ?? Delivery.NOT_POSSIBLE, note: known?.note ?? "no sensor runs there" };
    });
    return [...Map.groupBy(told, ({ delivery }) => delivery)].map(([delivery, own]) =>
      create(ArmedEffectSchema, {
        section,
        effect,
        delivery,
        nodeCount: own.length,
        nodeIds: own.slice(0, SHOWN).map(({ node }) => node.nodeId),
        notes: [...new Set(own.map(({ note }) => note))].filter((note) => note !== "").slice(0, SHOWN),
      }),
    );
  });
  return create(GetArmingResponseSchema, {
    effects,
    nodeCount: nodes.length,
    armedNodeCount: armed.length,
    armedNodeIds: armed.slice(0, SHOWN).map(({ nodeId }) => nodeId),
    ...(rule.rollOut ? { rollOut: rule.rollOut } : {}),
  });
}
