import { factText } from "#core/model/fact-text.ts";
import { isFamily, memberText } from "#core/model/item-pattern.ts";
import { enumText } from "#core/text/enum-text.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { ItemStatus, LearningState, ModelHistoryKind } from "#gen/gabion/model/v1/model_pb.ts";
import type { Collection, CollectionSpec } from "#lib/store/port.ts";
import { jsonCodec } from "#lib/store/proto-codec.ts";
import { factOf } from "./items.ts";
import {
  HISTORY_PENDING_MAX,
  type HistoryRecord,
  type ItemRecord,
  type ModelRecord,
  type SectionRecord,
} from "./record.ts";

interface LoggedEntry extends HistoryRecord {
  /** Model and when it was made: one that is made anew after its removal has a history of its own. */
  readonly generation: string;
}

/** The log of all models' histories, in their order. */
export const HISTORY: CollectionSpec<LoggedEntry> = {
  name: "model_history",
  codec: jsonCodec(({ generation, sequence }) => ({ generation, sequence })),
  fields: { generation: { orderedBy: "sequence" }, sequence: {} },
};

/** Entries that one model keeps; the oldest go first. */
export const HISTORY_MAX = 20_000;
const SWEEP_EVERY = 100;
const SLICE = 1_000;
/** Paths of containers may be long; their history need not repeat them whole. */
const TEXT_MAX = 400;

type Entry = Omit<HistoryRecord, "sequence" | "timeMs">;

const STATUSES: Readonly<Record<ItemStatus, string>> = {
  [ItemStatus.UNSPECIFIED]: "unknown",
  [ItemStatus.ALLOWED]: "allowed",
  [ItemStatus.HELD]: "held",
  [ItemStatus.REMOVED]: "removed",
};

function itemEntry(
  section: Section,
  itemId: string,
  before: ItemRecord | undefined,
  now: ItemRecord,
): Entry | undefined {
  const fact = factOf(now);
  const name = `\`${factText(fact)}\``;
  if (!before && isFamily(fact) && now.folded) {
    const text = `${now.foldedCount ?? 0} items became ${name}: ${now.reason}`;
    return { kind: ModelHistoryKind.FOLDED, section, itemId, text };
  }
  if (!before) {
    const text = `${name} ${now.status === ItemStatus.HELD ? "held" : "added"}: ${now.reason}`;
    return { kind: ModelHistoryKind.ITEM_ADDED, section, itemId, text };
  }
  if (before.status !== now.status) {
    const text = `${name}: ${STATUSES[before.status]} → ${STATUSES[now.status]}: ${now.reason}`;
    return { kind: ModelHistoryKind.ITEM_CHANGED, section, itemId, text };
  }
  if (!before.isPinned && now.isPinned) {
    return {
      kind: ModelHistoryKind.ITEM_CHANGED,
      section,
      itemId,
      text: `the family ${memberText(fact)} was confirmed`,
    };
  }
  return undefined;
}

function sectionEntries(before: SectionRecord | undefined, after: SectionRecord): Entry[] {
  if (before === after) return [];
  const { section } = after;
  const begun: Entry[] = before
    ? []
    : [{ kind: ModelHistoryKind.STATE, section, itemId: "", text: "learning began: the section came into use" }];
  const full: Entry[] =
    after.isFull && before?.isFull !== true
      ? [
          {
            kind: ModelHistoryKind.FULL,
            section,
            itemId: "",
            text: "the section is full: new behaviour is not learned any more",
          },
        ]
      : [];
  if (before?.items === after.items) return [...begun, ...full];
  const items = Object.entries(after.items).flatMap(([id, now]) => {
    const old = before?.items[id];
    return old === now ? [] : (itemEntry(section, id, old, now) ?? []);
  });
  return [...begun, ...items, ...full];
}

function entriesOf(before: ModelRecord | undefined, after: ModelRecord): Entry[] {
  const known = new Set(before?.transitions ?? []);
  const transitions = after.transitions
    .filter((transition) => !known.has(transition))
    .map(({ section, from, to, cause }): Entry => {
      const text = `${enumText(LearningState, from)} → ${enumText(LearningState, to)}: ${cause}`;
      return { kind: ModelHistoryKind.STATE, section, itemId: "", text };
    });
  const archive: Entry[] = [];
  if (before && (before.archivedMs === null) !== (after.archivedMs === null)) {
    const text =
      after.archivedMs === null ? "returned from the archive: a container runs it" : "archived: no container runs it";
    archive.push({ kind: ModelHistoryKind.ARCHIVE, section: Section.UNSPECIFIED, itemId: "", text });
  }
  const sections = after.sections.flatMap((section, i) => sectionEntries(before?.sections[i], section));
  return [...archive, ...sections, ...transitions];
}

/** The record after a change, with the entries that tell of it, in order. */
export function withHistory(before: ModelRecord | undefined, after: ModelRecord, nowMs: number): ModelRecord {
  const entries = entriesOf(before, after);
  if (entries.length === 0) return after;
  const last = after.historySequence ?? 0;
  const fresh = entries.map(
    (entry, i): HistoryRecord => ({
      ...entry,
      text: entry.text.slice(0, TEXT_MAX),
      sequence: last + i + 1,
      timeMs: nowMs,
    }),
  );
  const history = [...(after.history ?? []), ...fresh].slice(-HISTORY_PENDING_MAX);
  return { ...after, history, historySequence: last + entries.length };
}

function generationOf(modelKey: string, { createMs }: ModelRecord): string {
  return `${modelKey}@${createMs}`;
}

function entryId(generation: string, sequence: number): string {
  return `${generation}/${String(sequence).padStart(12, "0")}`;
}

/**
 * Carries entries from models into the log. An entry is in the model until it is known to be in the log, and has the same
 * id however often it is carried.
 */
export class HistoryLog {
  readonly #collection: Collection<LoggedEntry>;
  /** Highest sequence known to be in the log, by generation of a model. */
  readonly #logged = new Map<string, number>();

  constructor(collection: Collection<LoggedEntry>) {
    this.#collection = collection;
  }

  /** The record without what is in the log already. */
  trimmed(modelKey: string, record: ModelRecord): ModelRecord {
    const logged = this.#logged.get(generationOf(modelKey, record)) ?? 0;
    const { history = [] } = record;
    if (history.length === 0 || (history[0] as HistoryRecord).sequence > logged) return record;
    return { ...record, history: history.filter(({ sequence }) => sequence > logged) };
  }

  /** Writes what a record still carries. */
  async carry(modelKey: string, record: ModelRecord): Promise<void> {
    const { history = [] } = record;
    const generation = generationOf(modelKey, record);
    const last = history.at(-1)?.sequence ?? 0;
    const logged = this.#logged.get(generation) ?? 0;
    if (last <= logged) return;
    const missing = history.filter(({ sequence }) => sequence > logged);
    await this.#collection.insertMissing(
      missing.map((entry) => ({ id: entryId(generation, entry.sequence), value: { ...entry, generation } })),
    );
    this.#logged.set(generation, Math.max(last, this.#logged.get(generation) ?? 0));
    const oldest = last - HISTORY_MAX;
    if (oldest > 0 && oldest % SWEEP_EVERY < missing.length) await this.#sweep(generation, oldest);
  }

  /** Entries after a sequence, oldest first. */
  async read(modelKey: string, record: ModelRecord, after: number, limit: number): Promise<HistoryRecord[]> {
    const generation = generationOf(modelKey, record);
    const where = [
      { field: "generation", is: "eq", value: generation } as const,
      { field: "sequence", is: "gt", value: after } as const,
    ];
    const found = await this.#collection.find({ where, orderBy: "sequence", limit });
    return found.map(({ value }) => value);
  }

  async remove(modelKey: string, record: ModelRecord): Promise<void> {
    const generation = generationOf(modelKey, record);
    this.#logged.delete(generation);
    await this.#sweep(generation, Number.MAX_SAFE_INTEGER);
  }

  async #sweep(generation: string, upTo: number): Promise<void> {
    const where = [
      { field: "generation", is: "eq", value: generation } as const,
      { field: "sequence", is: "lte", value: upTo } as const,
    ];
    while ((await this.#collection.deleteWhere(where, SLICE)) === SLICE);
  }
}
