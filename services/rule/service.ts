import { create } from "@bufbuild/protobuf";
import { Code, type ConnectRouter, type HandlerContext } from "@connectrpc/connect";
import { type RuleFault, warnOfRule } from "#core/policy/rule-check.ts";
import { compileRuleChoice } from "#core/policy/rule-choice.ts";
import { deadParts, shadowedRules } from "#core/policy/rule-lint.ts";
import { type Rule, RuleSchema, type Ruleset, RuleWarningSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import {
  ApplyRulesResponseSchema,
  CheckRulesResponseSchema,
  ListRuleChangesResponseSchema,
  ListRuleHitsResponseSchema,
  ListRulesResponseSchema,
  ReportRuleHitsResponseSchema,
  ResolveRuleResponseSchema,
  RestartRollOutResponseSchema,
  RestoreRulesResponseSchema,
  type RuleChange,
  type RuleFinding,
  RuleFindingSchema,
  RuleService,
} from "#gen/gabion/rule/v1/rule_service_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";
import { identityText } from "#lib/pki/identity.ts";
import { notFound, RpcFault } from "#lib/rpc/errors.ts";
import { peerKey } from "#lib/rpc/peer.ts";
import { DEFAULT_PAGE_SIZE, readPage } from "#lib/service/page.ts";
import type { Collection } from "#lib/store/port.ts";
import { explainEvent } from "./explain.ts";
import type { FleetView } from "./fleet-view.ts";
import type { RuleHits } from "./hits.ts";
import type { IntelView } from "./intel-view.ts";
import { knownEntries } from "./known-entries.ts";
import { armingOf, convergenceOf, coverageOf, unknownLabels, withDraft } from "./reach.ts";
import { resultantOf } from "./resultant.ts";
import type { Rules } from "./rules.ts";
import {
  type Author,
  addRule,
  applyRules,
  moveRule,
  publishedRuleset,
  type RulesetChange,
  removeRule,
  replaceRule,
  restoreRules,
  stepRollOut,
  type WholeChange,
} from "./ruleset.ts";
import { simulateRules } from "./simulate.ts";

export interface RuleServiceDependencies {
  readonly rules: Rules;
  readonly changes: Collection<RuleChange>;
  readonly clock: Clock;
  readonly fleet: FleetView;
  readonly intel: IntelView;
  readonly hits: RuleHits;
}

const FINDINGS_MAX = 10_000;
const NO_MODEL = { policy: undefined };

function author(context: HandlerContext): string {
  return identityText(context.values.get(peerKey));
}

/** Where a page begins. Pages of a set that was changed in between would repeat or skip rules: they are refused. */
function offsetOf(token: string, revision: bigint): number {
  if (token === "") return 0;
  const [of, offset] = token.split(":").map(Number);
  if (BigInt(of || 0) === revision && Number.isInteger(offset)) return offset as number;
  throw new RpcFault(Code.Aborted, "STALE_PAGE_TOKEN", "the rules were changed between two pages: begin again");
}

/** What a rule's author should know, also beside the other rules. */
function warningsOf(rule: Rule, shadowed: ReadonlyMap<Rule, Rule>, running: readonly Container[]) {
  const by = shadowed.get(rule);
  const shadow = by ? [shadowWarning(by)] : [];
  // What a list has twice was said of a list that is both allowed and denied before.
  const all = [...shadow, ...warnOfRule(rule), ...deadParts(rule), ...unknownLabels(rule, running)];
  const seen = new Set<string>();
  return all
    .filter(({ field, message }) => {
      const key = `${field} ${/denied too/.test(message)}`;
      const isNew = !/denied too/.test(message) || !seen.has(key);
      seen.add(key);
      return isNew;
    })
    .map(({ field, message }) => create(RuleWarningSchema, { path: field, message }));
}

function shadowWarning(by: Rule): { field: string; message: string } {
  return {
    field: "scope",
    message: `no container gets this rule: \`${by.name}\` comes before it and takes all of them`,
  };
}

/** Findings over all rules, in their order. */
function findingsOf(
  rules: readonly Rule[],
  known: ReadonlyMap<Rule, readonly RuleFault[]>,
  running: readonly Container[],
): RuleFinding[] {
  const shadowed = shadowedRules(rules);
  return rules
    .flatMap((rule) => {
      const by = shadowed.get(rule);
      const found = [
        ...(by ? [shadowWarning(by)] : []),
        ...deadParts(rule),
        ...unknownLabels(rule, running),
        ...(known.get(rule) ?? []),
      ];
      return found.map(({ field, message }) =>
        create(RuleFindingSchema, { ruleId: rule.ruleId, ruleName: rule.name, path: field, message }),
      );
    })
    .slice(0, FINDINGS_MAX);
}

function ruleNamed(rules: readonly Rule[], wanted: string): Rule {
  const rule = rules.find(({ ruleId, name }) => ruleId === wanted || name === wanted);
  if (!rule) throw notFound("rule", wanted);
  return rule;
}

/** Handlers of rule-service. */
export function registerRuleService(router: ConnectRouter, deps: RuleServiceDependencies): void {
  const { rules, changes, clock, fleet, intel, hits } = deps;
  /** A change that is only checked: everything but the writing. */
  const tryOut = async (
    context: HandlerContext,
    make: (change: Parameters<Parameters<Rules["change"]>[1]>[0]) => RulesetChange,
  ) => make(await rules.current()).rule ?? create(RuleSchema, { updateBy: author(context) });
  const at = (context: HandlerContext) => ({ name: author(context), nowMs: clock.now() });
  const changeOrPlan = async (
    context: HandlerContext,
    make: (set: Ruleset, who: Author) => Promise<WholeChange>,
    isPlan: boolean,
  ) => {
    if (!isPlan) return await rules.changeWhole(author(context), make);
    const set = await rules.current();
    return { ...(await make(set, at(context))), revision: set.revision };
  };
  /** Running containers, for warnings that need them; none where model-service does not answer: rules are saved all the same. */
  const runningFor = (wanted: readonly Rule[]) =>
    wanted.some(({ scope }) => scope && scope.labels.length > 0) ? fleet.containers().catch(() => []) : [];
  const saved = async (rule: Rule, position: number) => {
    const beside = withDraft((await rules.current()).rules, rule, position);
    return warningsOf(rule, shadowedRules(beside), await runningFor([rule]));
  };
  router.service(RuleService, {
    async listRules({ pageSize, pageToken }) {
      const value = await rules.current();
      const offset = offsetOf(pageToken, value.revision);
      const end = offset + (pageSize === 0 ? DEFAULT_PAGE_SIZE : pageSize);
      return create(ListRulesResponseSchema, {
        rules: value.rules.slice(offset, end),
        nextPageToken: end < value.rules.length ? `${value.revision}:${end}` : "",
        rulesetRevision: value.revision,
      });
    },
    async getRule({ rule: wanted }) {
      const value = await rules.current();
      const position = value.rules.findIndex((r) => r.ruleId === wanted || r.name === wanted);
      const rule = value.rules[position];
      if (!rule) throw notFound("rule", wanted);
      return { rule, position };
    },
    async getRuleset() {
      return { ruleset: publishedRuleset(await rules.current()).body };
    },
    async createRule({ rule, position, validateOnly }, context) {
      const wanted = rule as Rule;
      const make = (set: Parameters<typeof addRule>[0]) => addRule(set, wanted, position ?? 0, at(context));
      const made = validateOnly ? await tryOut(context, make) : await rules.change(author(context), make);
      return { ...(made ? { rule: made } : {}), warnings: await saved(made ?? wanted, position ?? 0) };
    },
    async updateRule({ rule, validateOnly }, context) {
      const wanted = rule as Rule;
      const make = (set: Parameters<typeof replaceRule>[0]) => replaceRule(set, wanted, at(context));
      const made = validateOnly ? await tryOut(context, make) : await rules.change(author(context), make);
      return { ...(made ? { rule: made } : {}), warnings: await saved(made ?? wanted, 0) };
    },
    async moveRule({ ruleId, position, etag }, context) {
      await rules.change(author(context), (set, who) => moveRule(set, ruleId, position, etag, who));
      return { ruleIds: (await rules.current()).rules.map((r) => r.ruleId) };
    },
    async deleteRule({ ruleId, etag }, context) {
      await rules.change(author(context), (set, who) => removeRule(set, ruleId, etag, who));
      return {};
    },
    async listRuleChanges(request) {
      const { documents, nextPageToken } = await readPage(changes, request, { isDescending: true });
      return create(ListRuleChangesResponseSchema, { changes: documents.map(({ value }) => value), nextPageToken });
    },
    async resolveRule({ container }) {
      const wanted = container as NonNullable<typeof container>;
      const { rule, passedOver } = compileRuleChoice((await rules.current()).rules)(wanted);
      const { policy: model } = rule ? await fleet.model(wanted.modelKey).catch(() => NO_MODEL) : NO_MODEL;
      return create(ResolveRuleResponseSchema, {
        ...(rule ? { rule } : {}),
        passedOver: passedOver.map((p) => ({ ruleId: p.rule.ruleId, name: p.rule.name, reason: p.reason })),
        resultantPolicy: resultantOf(rule, model, wanted.modelKey),
      });
    },
    async applyRules({ rules: wanted, rulesetRevision, validateOnly }, context) {
      const make = async (set: Ruleset, who: Author) => applyRules(set, wanted, rulesetRevision, who);
      const done = await changeOrPlan(context, make, validateOnly);
      const shadowed = shadowedRules(wanted);
      const running = await runningFor(wanted);
      const warnings = wanted.flatMap((rule, index) =>
        warningsOf(rule, shadowed, running).map((each) =>
          create(RuleWarningSchema, { ...each, path: `rules[${index}].${each.path}` }),
        ),
      );
      const told = { steps: [...done.steps], rulesetRevision: done.revision };
      return create(ApplyRulesResponseSchema, { ...told, warnings: warnings.slice(0, FINDINGS_MAX) });
    },
    async restoreRules({ rulesetRevision, ruleId, validateOnly }, context) {
      const make = async (set: Ruleset, who: Author) =>
        restoreRules(set, await rules.changesAfter(set, rulesetRevision), ruleId, who);
      const done = await changeOrPlan(context, make, validateOnly);
      return create(RestoreRulesResponseSchema, { steps: [...done.steps], rulesetRevision: done.revision });
    },
    async restartRollOut({ rule: wanted }, context) {
      const rule = await rules.change(author(context), (set, who) =>
        stepRollOut(set, ruleNamed(set.rules, wanted).ruleId, { stage: 0 }, who),
      );
      return create(RestartRollOutResponseSchema, rule ? { rule } : {});
    },
    async getConvergence() {
      return convergenceOf(await rules.current(), await fleet.nodes());
    },
    async listCoverage({ rule: wanted, draft, position }) {
      const { rules: all } = await rules.current();
      if (draft) return coverageOf(withDraft(all, draft, position), draft, await fleet.containers());
      return coverageOf(all, ruleNamed(all, wanted), await fleet.containers());
    },
    async checkRules() {
      const all = (await rules.current()).rules;
      const known = await knownEntries(all, fleet);
      const running = await runningFor(all);
      return create(CheckRulesResponseSchema, { findings: findingsOf(all, known, running) });
    },
    async getArming({ rule: wanted }) {
      return armingOf(ruleNamed((await rules.current()).rules, wanted), await fleet.nodes());
    },
    async explainEvent(request) {
      return await explainEvent((await rules.current()).rules, { fleet, intel }, request);
    },
    async simulateRules(request) {
      return await simulateRules((await rules.current()).rules, { fleet, intel }, request, clock.now());
    },
    async reportRuleHits(request, context) {
      const peer = context.values.get(peerKey);
      // Of rules that are there: nobody makes records of others.
      const known = new Set((await rules.current()).rules.map(({ ruleId }) => ruleId));
      await hits.add(peer.kind === "node" ? peer.name : "", request, known);
      return create(ReportRuleHitsResponseSchema);
    },
    async listRuleHits({ rule: wanted }) {
      const { rules: all } = await rules.current();
      const of = wanted === "" ? all : [ruleNamed(all, wanted)];
      return create(ListRuleHitsResponseSchema, { hits: await hits.list(of, wanted === "") });
    },
  });
}
