import { create } from "@bufbuild/protobuf";
import { Code, type ConnectRouter, type HandlerContext } from "@connectrpc/connect";
import { warnOfRule } from "#core/policy/rule-check.ts";
import { compileRuleChoice } from "#core/policy/rule-choice.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { Effect, Reason, ResultantPolicySchema } from "#gen/gabion/policy/v1/policy_pb.ts";
import { type Rule, RuleSchema, RuleWarningSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import {
  ListRuleChangesResponseSchema,
  ListRulesResponseSchema,
  ResolveRuleResponseSchema,
  type RuleChange,
  RuleService,
} from "#gen/gabion/rule/v1/rule_service_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";
import { identityText } from "#lib/pki/identity.ts";
import { notFound, RpcFault } from "#lib/rpc/errors.ts";
import { peerKey } from "#lib/rpc/peer.ts";
import { DEFAULT_PAGE_SIZE, readPage } from "#lib/service/page.ts";
import type { Collection } from "#lib/store/port.ts";
import type { Rules } from "./rules.ts";
import { addRule, moveRule, publishedRuleset, type RulesetChange, removeRule, replaceRule } from "./ruleset.ts";

export interface RuleServiceDependencies {
  readonly rules: Rules;
  readonly changes: Collection<RuleChange>;
  readonly clock: Clock;
}

function author(context: HandlerContext): string {
  return identityText(context.values.get(peerKey));
}

function warnings(rule: Rule) {
  return warnOfRule(rule).map(({ field, message }) => create(RuleWarningSchema, { path: field, message }));
}

/** Where a page begins. Pages of a set that was changed in between would repeat or skip rules: they are refused. */
function offsetOf(token: string, revision: bigint): number {
  if (token === "") return 0;
  const [of, offset] = token.split(":").map(Number);
  if (BigInt(of || 0) === revision && Number.isInteger(offset)) return offset as number;
  throw new RpcFault(Code.Aborted, "STALE_PAGE_TOKEN", "the rules were changed between two pages: begin again");
}

/** What the rule's lists add to and take from the model. */
function resultantOf(rule: Rule | undefined, modelKey: string) {
  const process = rule?.process;
  const entry = (source: Reason, isAllowed: boolean) => (e: { process: string }) => ({
    object: e.process,
    source,
    isAllowed,
  });
  return create(ResultantPolicySchema, {
    ruleId: rule?.ruleId ?? "",
    ruleName: rule?.name ?? "",
    modelKey,
    sections: [
      {
        section: Section.PROCESS,
        effect: process?.effect ?? Effect.DISABLE,
        entries: [
          ...(process?.denied ?? []).map(entry(Reason.DENIED_LIST, false)),
          ...(process?.allowed ?? []).map(entry(Reason.ALLOWED_LIST, true)),
        ],
      },
    ],
  });
}

/** Handlers of rule-service. */
export function registerRuleService(router: ConnectRouter, { rules, changes, clock }: RuleServiceDependencies): void {
  /** A change that is only checked: everything but the writing. */
  const tryOut = async (
    context: HandlerContext,
    make: (change: Parameters<Parameters<Rules["change"]>[1]>[0]) => RulesetChange,
  ) => make(await rules.current()).rule ?? create(RuleSchema, { updateBy: author(context) });
  const at = (context: HandlerContext) => ({ name: author(context), nowMs: clock.now() });
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
      return { ...(made ? { rule: made } : {}), warnings: warnings(wanted) };
    },
    async updateRule({ rule, validateOnly }, context) {
      const wanted = rule as Rule;
      const make = (set: Parameters<typeof replaceRule>[0]) => replaceRule(set, wanted, at(context));
      const made = validateOnly ? await tryOut(context, make) : await rules.change(author(context), make);
      return { ...(made ? { rule: made } : {}), warnings: warnings(wanted) };
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
      return create(ResolveRuleResponseSchema, {
        ...(rule ? { rule } : {}),
        passedOver: passedOver.map((p) => ({ ruleId: p.rule.ruleId, name: p.rule.name, reason: p.reason })),
        resultantPolicy: resultantOf(rule, wanted.modelKey),
      });
    },
  });
}
