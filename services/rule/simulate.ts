import { create } from "@bufbuild/protobuf";
import { durationFromMs, durationMs } from "@bufbuild/protobuf/wkt";
import { checkRule } from "#core/policy/rule-check.ts";
import { type Compared, type Counts, type SimulatedModel, Simulation } from "#core/policy/simulate.ts";
import type { Rule } from "#gen/gabion/rule/v1/rule_pb.ts";
import {
  type SimulatedCounts,
  SimulatedCountsSchema,
  type SimulateRulesRequest,
  type SimulateRulesResponse,
  SimulateRulesResponseSchema,
} from "#gen/gabion/rule/v1/rule_service_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import { invalidRequest } from "#lib/rpc/errors.ts";
import type { FleetView } from "./fleet-view.ts";
import type { IntelView } from "./intel-view.ts";

/** Records of the journal that are gone through at most. */
const RECORDS_MAX = 200_000;
const SHOWN_MAX = 1_000;

/** The rules as they would be: all of them, or those in force with the drafts in their places or before them. */
export function draftedRules(
  rules: readonly Rule[],
  { drafts, isWholeRuleset }: SimulateRulesRequest,
): readonly Rule[] {
  if (isWholeRuleset) return drafts;
  const known = new Set(rules.map(({ name }) => name));
  const byName = new Map(drafts.map((draft) => [draft.name, draft] as const));
  return [...drafts.filter(({ name }) => !known.has(name)), ...rules.map((rule) => byName.get(rule.name) ?? rule)];
}

function toCounts({ audited, prevented, stopped }: Counts): SimulatedCounts {
  return create(SimulatedCountsSchema, {
    auditedCount: BigInt(audited),
    preventedCount: BigInt(prevented),
    stoppedCount: stopped.size,
  });
}

function differences({ now, draft }: Compared): number {
  return Math.abs(draft.audited - now.audited) + 1_000 * Math.abs(draft.prevented - now.prevented);
}

/** Models with their containers, asked for once. */
class Models {
  readonly #fleet: FleetView;
  readonly #running: readonly Container[];
  readonly #known = new Map<string, SimulatedModel>();
  readonly containers = new Map<string, Container>();

  constructor(fleet: FleetView, running: readonly Container[]) {
    this.#fleet = fleet;
    this.#running = running;
    for (const container of running) this.containers.set(`${container.nodeId}/${container.containerId}`, container);
  }

  async of(modelKey: string): Promise<SimulatedModel> {
    const known = this.#known.get(modelKey);
    if (known) return known;
    const { policy, containers } = await this.#fleet.model(modelKey);
    const running = this.#running.filter((container) => container.modelKey === modelKey);
    for (const container of containers) {
      const key = `${container.nodeId}/${container.containerId}`;
      if (!this.containers.has(key)) this.containers.set(key, container);
    }
    const model = { policy, containers: running };
    this.#known.set(modelKey, model);
    return model;
  }

  /** Models that run, or that the journal has named. */
  async all(modelKey: string): Promise<[string, SimulatedModel][]> {
    for (const container of this.#running) {
      if (modelKey === "" || container.modelKey === modelKey) await this.of(container.modelKey);
    }
    return [...this.#known];
  }
}

/** Tries drafts on what happened in the last days. */
export async function simulateRules(
  rules: readonly Rule[],
  { fleet, intel }: { readonly fleet: FleetView; readonly intel: IntelView },
  request: SimulateRulesRequest,
  nowMs: number,
): Promise<SimulateRulesResponse> {
  const began = performance.now();
  const faults = request.drafts.flatMap((draft, index) =>
    checkRule(draft).map(({ field, message }) => ({ field: `drafts[${index}].${field}`, message })),
  );
  if (faults.length > 0) throw invalidRequest(faults);
  const sinceMs = request.since ? durationMs(request.since) : 0;
  const firstDay = sinceMs === 0 ? "" : new Date(nowMs - sinceMs).toISOString().slice(0, 10);
  const simulation = new Simulation(rules, draftedRules(rules, request), await intel());
  const models = new Models(fleet, await fleet.containers());
  let isCut = false;
  for await (const record of fleet.journal(firstDay, request.modelKey)) {
    isCut = simulation.recordCount >= RECORDS_MAX;
    if (isCut) break;
    simulation.addRecord(record, await models.of(record.modelKey), models.containers);
  }
  for (const [modelKey, model] of await models.all(request.modelKey)) simulation.addModel(modelKey, model);
  return toResponse(simulation, performance.now() - began, isCut);
}

function toResponse(simulation: Simulation, tookMs: number, isCut: boolean): SimulateRulesResponse {
  const { days, containers, changes, recordCount, itemCount, decisionCount } = simulation;
  const row = ({ now, draft }: Compared) => ({ now: toCounts(now), draft: toCounts(draft) });
  const byDay = [...days].sort(([a], [b]) => (a < b ? -1 : 1));
  const byContainer = [...containers].sort(([, a], [, b]) => differences(b) - differences(a));
  const severest = [...changes.values()].sort(
    (a, b) => b.draft.effectApplied - a.draft.effectApplied || b.count - a.count,
  );
  return create(SimulateRulesResponseSchema, {
    days: byDay.map(([day, each]) => ({ day, ...row(each) })),
    containers: byContainer.slice(0, SHOWN_MAX).map(([container, each]) => ({ container, ...row(each) })),
    changes: severest.slice(0, SHOWN_MAX).map(({ count, containers: of, ...change }) => ({
      ...change,
      count: BigInt(count),
      containerCount: of.size,
    })),
    recordCount: BigInt(recordCount),
    itemCount: BigInt(itemCount),
    decisionCount: BigInt(decisionCount),
    took: durationFromMs(Math.round(tookMs)),
    isCut: isCut || changes.size > SHOWN_MAX,
  });
}
