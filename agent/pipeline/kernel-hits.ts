import { create } from "@bufbuild/protobuf";
import { sectionOfFact } from "#core/model/fact.ts";
import { eventOfFact } from "#core/model/journal.ts";
import { decideEvent } from "#core/policy/decide.ts";
import type { EntryOrigin } from "#core/policy/kernel-entry.ts";
import type { Event, Section } from "#gen/gabion/event/v1/event_pb.ts";
import { FactSchema } from "#gen/gabion/model/v1/model_pb.ts";
import { type Decision, DecisionSchema, ExplanationSchema, Outcome, Reason } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { AgentOptions } from "../agent-options.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import type { SlotUse } from "../enforce/slot-table.ts";
import type { HitsFrame } from "../wire/frames.ts";
import type { Journal } from "./journal.ts";
import type { Learner } from "./learner.ts";

/** What an entry of a slot stands for, told once for all its hits. */
interface Meaning {
  readonly section: Section;
  readonly decision: Decision;
  /** Of an item of the model; entries of lists stand for more than one event. */
  readonly item?: { readonly factId: string; readonly event: Event; readonly key: string };
}

/** What was counted of a container and not reported yet. */
interface Pending {
  readonly items: Map<Meaning, number>;
  /** Reports that pass before the next one is sent, and how many passed between the last two. */
  left: number;
  interval: number;
}

/** Spans between two reports at most: an hour of the default. The first come sooner. */
const INTERVAL_MAX = 240;
/** uint32, as reports have it. */
const COUNT_MAX = 0xffff_ffff;

/** What the kernel lets through by itself, as often as its entries counted it: for rules, models and the journal. */
export class KernelHits {
  readonly #learner: Learner;
  readonly #journal: Journal;
  readonly #onDecision: AgentOptions["onDecision"];
  readonly #meanings = new WeakMap<SlotUse, Map<number, Meaning | undefined>>();
  readonly #pending = new WeakMap<WatchedContainer, Pending>();

  constructor(options: { learner: Learner; journal: Journal; onDecision: AgentOptions["onDecision"] }) {
    this.#learner = options.learner;
    this.#journal = options.journal;
    this.#onDecision = options.onDecision;
  }

  /** Takes the counters of a container that ran under a policy. */
  take(container: WatchedContainer, use: SlotUse, rows: HitsFrame["rows"]): void {
    const pending = this.#pending.get(container) ?? { items: new Map<Meaning, number>(), left: 1, interval: 1 };
    this.#pending.set(container, pending);
    for (const { entry, count } of rows) {
      const meaning = this.#meaningOf(container, use, entry);
      if (!meaning) continue;
      if (use.rule) this.#onDecision?.(use.rule.ruleId, meaning.decision, meaning.section, count);
      const { item, decision, section } = meaning;
      // What teaches is counted at once: it belongs to the unit of time that it was seen in.
      if (item && decision.isLearned) this.#learner.count(container, section, item.factId, count);
      if (item) pending.items.set(meaning, (pending.items.get(meaning) ?? 0) + count);
    }
  }

  /** Reports what was counted, where it is due: known behaviour is worth few messages. */
  flush(container: WatchedContainer, isLast = false): void {
    const pending = this.#pending.get(container);
    if (!pending) return;
    pending.left -= 1;
    if (!isLast && pending.left > 0) return;
    pending.interval = Math.min(INTERVAL_MAX, pending.interval * 2);
    pending.left = pending.interval;
    const bySection = new Map<Section, Map<string, number>>();
    for (const [{ section, decision, item }, count] of pending.items) {
      if (!item) continue;
      this.#journal.note(container, item.key, item.event, decision, count);
      if (decision.isLearned) continue;
      const counts = bySection.get(section) ?? new Map<string, number>();
      bySection.set(section, counts.set(item.factId, Math.min(COUNT_MAX, (counts.get(item.factId) ?? 0) + count)));
    }
    pending.items.clear();
    for (const [section, counts] of bySection) this.#learner.countKnown(container, section, counts);
  }

  #meaningOf(container: WatchedContainer, use: SlotUse, entry: number): Meaning | undefined {
    const known = this.#meanings.get(use) ?? new Map<number, Meaning | undefined>();
    this.#meanings.set(use, known);
    if (known.has(entry)) return known.get(entry);
    const origin = use.entries[entry - 1]?.origin;
    const meaning = origin && this.#read(container, use, origin);
    known.set(entry, meaning);
    return meaning;
  }

  #read(container: WatchedContainer, use: SlotUse, origin: EntryOrigin): Meaning | undefined {
    if (origin.kind === "list") {
      const explanation = create(ExplanationSchema, { reason: Reason.ALLOWED_LIST, matched: origin.matched });
      return { section: origin.section, decision: create(DecisionSchema, { outcome: Outcome.ALLOW, explanation }) };
    }
    const fact = create(FactSchema, { kind: origin.fact });
    const event = eventOfFact(fact);
    if (!event) return undefined;
    // Which part of the policy names it: an item may stand in the rule's allowed list too.
    const decision = decideEvent(use.policy, event, container.message);
    const item = { factId: this.#learner.idOf(container, fact), event, key: this.#journal.keyOf(event, decision) };
    return { section: sectionOfFact(fact), decision, item };
  }
}
