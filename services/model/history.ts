import { factText } from "#core/model/fact-text.ts";
import { isFamily, memberText } from "#core/model/item-pattern.ts";
import { enumText } from "#core/text/enum-text.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { ItemStatus, LearningState, ModelHistoryKind } from "#gen/gabion/model/v1/model_pb.ts";
import { packedCodec } from "#lib/store/packed-codec.ts";
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

/** Entries that were carried together; before there were such leaves, a single one. */
interface HistoryLeaf extends Partial<HistoryRecord> {
  /** Model and when it was made: one that is made anew after its removal has a history of its own. */
  readonly generation: string;
  /** Of its last entry. */
  readonly sequence: number;
  readonly entries?: readonly HistoryRecord[];
}

/** The log of all models' histories, in their order. */
export const HISTORY: CollectionSpec<HistoryLeaf> = {
  name: "model_history",
  codec: packedCodec(jsonCodec(({ generation, sequence }) => ({ generation, sequence }))),
  fields: { generation: { orderedBy: "sequence" } },
};

function entriesIn({ generation: _, entries, ...single }: HistoryLeaf): readonly HistoryRecord[] {
  return entries ?? [single as HistoryRecord];
}

/** Entries that one model keeps; the oldest go first. */
export const HISTORY_MAX = 20_000;
const SWEEP_EVERY = 100;
const SLICE = 1_000;
/** Entries of one leaf, and leaves that are read at once. */
const LEAF_MAX = 500;
const LEAVES = 20;
/** Models whose place in the log is remembered; of others it is looked up. */
const LOGGED_MAX = 20_000;
const TRIES_MAX = 10;
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

/** Entries that follow each other, as one document under the first one's sequence. */
function leafOf(generation: string, entries: readonly HistoryRecord[]): { id: string; value: HistoryLeaf } {
  const first = entries[0]?.sequence ?? 0;
  const id = `${generation}/${String(first).padStart(12, "0")}`;
  return { id, value: { generation, sequence: entries.at(-1)?.sequence ?? first, entries } };
}

/**
 * Carries entries from models into the log. An entry is in the model until it is known to be in the log, and has the same
 * id however often it is carried.
 */
export class HistoryLog {
  readonly #collection: Collection<HistoryLeaf>;
  /** Highest sequence known to be in the log, by generation of a model. */
  readonly #logged = new Map<string, number>();

  constructor(collection: Collection<HistoryLeaf>) {
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
    if (last <= (this.#logged.get(generation) ?? 0)) return;
    let count = 0;
    // A leaf that begins where another replica's does is that one's: what it lacks comes in the next.
    for (let attempt = 1; attempt <= TRIES_MAX; attempt += 1) {
      const logged = this.#logged.get(generation) ?? (await this.#lastLogged(generation));
      const missing = history.filter(({ sequence }) => sequence > logged);
      count += missing.length;
      const leaves = Array.from({ length: Math.ceil(missing.length / LEAF_MAX) }, (_, i) =>
        leafOf(generation, missing.slice(i * LEAF_MAX, (i + 1) * LEAF_MAX)),
      );
      const added = leaves.length === 0 ? 0 : await this.#collection.insertMissing(leaves);
      const isWhole = added === leaves.length;
      this.#remember(generation, isWhole ? last : await this.#lastLogged(generation));
      if (isWhole) break;
    }
    const oldest = last - HISTORY_MAX;
    if (oldest > 0 && oldest % SWEEP_EVERY < count) await this.#sweep(generation, oldest);
  }

  async #lastLogged(generation: string): Promise<number> {
    const where = [{ field: "generation", is: "eq", value: generation } as const];
    const query = { where, orderBy: "sequence", isDescending: true, limit: 1 };
    const [last] = await this.#collection.findFields(query);
    return Number(last?.fields["sequence"] ?? 0);
  }

  #remember(generation: string, sequence: number): void {
    const known = this.#logged.get(generation) ?? 0;
    this.#logged.delete(generation);
    this.#logged.set(generation, Math.max(sequence, known));
    for (const [oldest] of this.#logged) {
      if (this.#logged.size <= LOGGED_MAX) return;
      this.#logged.delete(oldest);
    }
  }

  /** Entries after a sequence, oldest first. */
  async read(modelKey: string, record: ModelRecord, after: number, limit: number): Promise<HistoryRecord[]> {
    const generation = generationOf(modelKey, record);
    const entries: HistoryRecord[] = [];
    for (let last = after; entries.length < limit; ) {
      const where = [
        { field: "generation", is: "eq", value: generation } as const,
        { field: "sequence", is: "gt", value: last } as const,
      ];
      const found = await this.#collection.find({ where, orderBy: "sequence", limit: LEAVES });
      for (const { value } of found) {
        // Two replicas may have carried the same entry in leaves that begin elsewhere.
        const fresh = entriesIn(value).filter(({ sequence }) => sequence > last);
        entries.push(...fresh);
        last = Math.max(last, value.sequence);
      }
      if (found.length < LEAVES) break;
    }
    return entries.slice(0, limit);
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
