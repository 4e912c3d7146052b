import { durationMs, timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { type Client, createClient } from "@connectrpc/connect";
import { isArmed } from "#core/policy/roll-out.ts";
import { compileRuleChoice } from "#core/policy/rule-choice.ts";
import { AuditService } from "#gen/gabion/audit/v1/audit_service_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { RollOut, Rule } from "#gen/gabion/rule/v1/rule_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";
import type { RpcClient } from "#lib/rpc/client.ts";
import type { FleetView } from "./fleet-view.ts";
import type { Rules } from "./rules.ts";
import { stepRollOut } from "./ruleset.ts";

const PAGE = 1_000;
const PAGES_MAX = 20;

/** Who takes roll-outs further, in the history. */
const AUTHOR = "service/rule";

/** What rule-service asks audit-service for: containers that a rule had stopped since a time. */
export type StoppedBy = (rule: Rule, sinceMs: number) => Promise<ReadonlySet<string>>;

/** Asks audit-service by RPC. */
export function createStoppedBy({ transport }: RpcClient): StoppedBy {
  const audits: Client<typeof AuditService> = createClient(AuditService, transport);
  return async ({ name, ruleId }, sinceMs) => {
    const stopped = new Set<string>();
    const filter = { ruleName: name, startTime: timestampFromMs(sinceMs) };
    let pageToken = "";
    for (let page = 0; page < PAGES_MAX; page += 1) {
      const answer = await audits.listAudits({ filter, pageSize: PAGE, pageToken });
      for (const audit of answer.audits) {
        const isStop = audit.decision?.effectApplied === Effect.BLOCK && audit.ruleId === ruleId;
        if (isStop) stopped.add(`${audit.nodeId}/${audit.container?.containerId}`);
      }
      pageToken = answer.nextPageToken;
      if (pageToken === "") break;
    }
    return stopped;
  };
}

export interface RollOutsDependencies {
  readonly rules: Rules;
  readonly fleet: FleetView;
  readonly stoppedBy: StoppedBy;
  readonly clock: Clock;
}

/**
 * How many more containers of a rule began on its armed nodes than on as many others. None where there are no others: that
 * many containers begin may then be a new release.
 */
function excessStarts(rule: Rule, own: readonly Container[], nodeIds: readonly string[], sinceMs: number): number {
  const armed = new Set(nodeIds.filter((nodeId) => isArmed(rule, nodeId)));
  const started = own.filter(({ startTime }) => startTime && timestampMs(startTime) >= sinceMs);
  const onArmed = started.filter(({ nodeId }) => armed.has(nodeId)).length;
  const others = nodeIds.length - armed.size;
  return others === 0 ? 0 : onArmed - ((started.length - onArmed) / others) * armed.size;
}

/** Takes roll-outs to their next stage when a stage has lasted, and halts them where containers stop or begin anew. */
export class RollOuts {
  readonly #deps: RollOutsDependencies;

  constructor(deps: RollOutsDependencies) {
    this.#deps = deps;
  }

  /** Looks at every roll-out that is under way. */
  async check(): Promise<void> {
    const { rules } = await this.#deps.rules.current();
    const open = rules.filter(({ rollOut, isDisabled }) => rollOut && !rollOut.isHalted && !isDisabled);
    for (const rule of open) await this.#checkOne(rules, rule, rule.rollOut as RollOut);
  }

  async #checkOne(rules: readonly Rule[], rule: Rule, rollOut: RollOut): Promise<void> {
    const { clock } = this.#deps;
    const sinceMs = rollOut.stageTime ? timestampMs(rollOut.stageTime) : 0;
    const dwellMs = rollOut.dwell ? durationMs(rollOut.dwell) : 0;
    const isLast = rollOut.stage >= rollOut.percents.length - 1;
    const lastedMs = clock.now() - sinceMs;
    // The last stage is watched twice as long as the others, and then left alone.
    if (isLast && lastedMs >= 2 * dwellMs) return;
    const haltReason = await this.#haltReason(rules, rule, rollOut, sinceMs);
    if (haltReason === undefined && (isLast || lastedMs < dwellMs)) return;
    const step = haltReason === undefined ? { stage: rollOut.stage + 1 } : { haltReason };
    await this.#deps.rules.changeWhole(AUTHOR, async (ruleset, author) => {
      const current = ruleset.rules.find(({ ruleId }) => ruleId === rule.ruleId);
      // Another replica, or a person, was faster.
      if (current?.revision !== rule.revision) return { change: undefined, steps: [] };
      return { change: stepRollOut(ruleset, rule.ruleId, step, author), steps: [] };
    });
  }

  async #haltReason(
    rules: readonly Rule[],
    rule: Rule,
    rollOut: RollOut,
    sinceMs: number,
  ): Promise<string | undefined> {
    const { fleet, stoppedBy } = this.#deps;
    const stopped = await stoppedBy(rule, sinceMs);
    if (stopped.size > rollOut.maxStops) {
      return `${stopped.size} containers were stopped in stage ${rollOut.stage + 1}, and ${rollOut.maxStops} may be`;
    }
    const nodes = (await fleet.nodes()).filter(({ isConnected }) => isConnected).map(({ nodeId }) => nodeId);
    const choose = compileRuleChoice(rules);
    const own = (await fleet.containers()).filter((container) => choose(container).rule === rule);
    const excess = Math.ceil(excessStarts(rule, own, nodes, sinceMs));
    if (excess <= rollOut.maxRestarts) return undefined;
    return `${excess} containers more than elsewhere began on the nodes of stage ${rollOut.stage + 1}, and ${rollOut.maxRestarts} may`;
  }
}
