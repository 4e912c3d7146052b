import { create } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import type { Rule } from "#gen/gabion/rule/v1/rule_pb.ts";
import {
  type ReportRuleHitsRequest,
  type RuleHit,
  type RuleHitCount,
  RuleHitCountSchema,
} from "#gen/gabion/rule/v1/rule_service_pb.ts";
import { type Collection, type CollectionSpec, StaleRevisionError } from "#lib/store/port.ts";
import { jsonCodec } from "#lib/store/proto-codec.ts";

interface Hits {
  readonly count: number;
  readonly lastMs: number;
}

/** Hits of one rule: one document, so that a report that is sent again counts once. */
interface HitRecord {
  /** By entry; the empty one is the rule as a whole. */
  readonly entries: Readonly<Record<string, Hits>>;
  /** Last report by node: agent run and number. */
  readonly reports: Readonly<Record<string, readonly [runId: string, sequence: number]>>;
}

export const RULE_HITS: CollectionSpec<HitRecord> = { name: "rule_hits", codec: jsonCodec(() => ({})), fields: {} };

/** Entries kept of one rule; hits of further ones count for the rule only. */
const ENTRIES_MAX = 20_000;
/** Nodes whose last report is remembered. */
const NODES_MAX = 10_000;
const TRIES_MAX = 20;

const NONE: HitRecord = { entries: {}, reports: {} };

function added(
  record: HitRecord,
  hits: readonly RuleHit[],
  nodeId: string,
  report: readonly [string, number],
): HitRecord {
  const entries: Record<string, Hits> = { ...record.entries };
  let known = Object.keys(entries).length;
  for (const { entry, count, lastTime } of hits) {
    const before = Object.hasOwn(entries, entry) ? entries[entry] : undefined;
    if (!before && entry !== "" && known >= ENTRIES_MAX) continue;
    if (!before) known += 1;
    const lastMs = Math.max(before?.lastMs ?? 0, lastTime ? timestampMs(lastTime) : 0);
    entries[entry] = { count: (before?.count ?? 0) + Number(count), lastMs };
  }
  // The node that reports goes last; the one that was silent longest is forgotten.
  const { [nodeId]: _, ...others } = record.reports;
  const kept = Object.entries(others).slice(1 - NODES_MAX);
  return { entries, reports: { ...Object.fromEntries(kept), [nodeId]: report } };
}

/** The entries of a rule, as hits name them. */
export function entryNames(rule: Rule): string[] {
  const { process, network, dns, filesystem, syscall } = rule;
  const lists = { process, dns, filesystem, syscall } as const;
  const named = Object.entries(lists).flatMap(([section, part]) =>
    (["allowed", "denied"] as const).flatMap((list) =>
      (part?.[list] ?? []).map((entry) => `${section}.${list}: ${typeof entry === "string" ? entry : entry.process}`),
    ),
  );
  const range = ({ first, last }: { first: number; last: number }) =>
    first === last ? `${first}` : `${first}-${last}`;
  const ofNetwork = (["allowed", "denied"] as const).flatMap((list) => {
    const entries = network?.[list];
    const texts = [
      ...(entries?.listeningPorts ?? []).map(range),
      ...(entries?.outboundPorts ?? []).map(range),
      ...(entries?.outboundAddresses ?? []),
    ];
    return texts.map((text) => `network.${list}: ${text}`);
  });
  const detectors = Object.entries({ process, network, dns, filesystem }).flatMap(([section, part]) =>
    Object.keys(part?.detectors ?? {}).map((name) => `${section}.detectors: ${name}`),
  );
  const custom = rule.customRules.map(({ name }) => `custom_rules: ${name}`);
  return [...custom, ...named, ...ofNetwork, ...detectors];
}

/** How often rules and their entries decided, on all nodes. */
export class RuleHits {
  readonly #collection: Collection<HitRecord>;

  constructor(collection: Collection<HitRecord>) {
    this.#collection = collection;
  }

  /** Takes in a node's report on some of the given rules. */
  async add(
    nodeId: string,
    { agentRunId, sequence, hits }: ReportRuleHitsRequest,
    rules: ReadonlySet<string>,
  ): Promise<void> {
    for (const [ruleId, own] of Map.groupBy(hits, (hit) => hit.ruleId)) {
      if (!rules.has(ruleId)) continue;
      await this.#change(ruleId, (record) => {
        const [runId, last] = record.reports[nodeId] ?? ["", 0];
        if (runId === agentRunId && last >= Number(sequence)) return undefined;
        return added(record, own, nodeId, [agentRunId, Number(sequence)]);
      });
    }
  }

  /** Each rule as a whole, or a rule with all its entries. */
  async list(rules: readonly Rule[], isWhole: boolean): Promise<RuleHitCount[]> {
    const lists = await Promise.all(rules.map((rule) => this.#listOne(rule, isWhole)));
    return lists.flat();
  }

  async #listOne(rule: Rule, isWhole: boolean): Promise<RuleHitCount[]> {
    const { entries } = (await this.#collection.get(rule.ruleId))?.value ?? NONE;
    const names = isWhole
      ? [""]
      : ["", ...new Set([...entryNames(rule), ...Object.keys(entries).filter((e) => e !== "")])];
    return names.map((entry) => {
      const { count, lastMs } = (Object.hasOwn(entries, entry) ? entries[entry] : undefined) ?? { count: 0, lastMs: 0 };
      const of = { ruleId: rule.ruleId, ruleName: rule.name, entry, count: BigInt(count) };
      return create(RuleHitCountSchema, { ...of, ...(lastMs > 0 ? { lastTime: timestampFromMs(lastMs) } : {}) });
    });
  }

  async #change(ruleId: string, change: (record: HitRecord) => HitRecord | undefined): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      const stored = await this.#collection.get(ruleId);
      const next = change(stored?.value ?? NONE);
      if (!next) return;
      try {
        if (stored) await this.#collection.replace(ruleId, next, stored.revision);
        else if ((await this.#collection.insertMissing([{ id: ruleId, value: next }])) === 0) continue;
        return;
      } catch (error) {
        if (!(error instanceof StaleRevisionError) || attempt >= TRIES_MAX) throw error;
      }
    }
  }
}
