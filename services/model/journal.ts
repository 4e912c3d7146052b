import { createHash } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import { type Timestamp, timestampDate, timestampMs } from "@bufbuild/protobuf/wkt";
import { journalKey } from "#core/model/journal.ts";
import type { Event } from "#gen/gabion/event/v1/event_pb.ts";
import {
  JournalCountSchema,
  type JournalNote,
  type JournalRecord,
  JournalRecordSchema,
} from "#gen/gabion/model/v1/model_pb.ts";
import { type Container, ContainerSchema } from "#gen/gabion/workload/v1/workload_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";
import { type Collection, type CollectionSpec, StaleRevisionError, type Stored } from "#lib/store/port.ts";
import { protoCodec } from "#lib/store/proto-codec.ts";

export const JOURNAL: CollectionSpec<JournalRecord> = {
  name: "journal",
  codec: protoCodec(JournalRecordSchema, ({ modelKey, day }) => ({ modelKey, day, modelDay: `${modelKey} ${day}` })),
  fields: { modelKey: {}, day: {}, modelDay: {} },
};
/** Containers that the journal is of, as rules choose by their names and labels; they outlive the containers. */
export const JOURNAL_CONTAINERS: CollectionSpec<Container> = {
  name: "journal_containers",
  codec: protoCodec(ContainerSchema, ({ modelKey, startTime }) => ({
    modelKey,
    startMs: startTime ? timestampMs(startTime) : 0,
  })),
  fields: { modelKey: {}, startMs: {} },
};

/** Records of one model and day; what is new beyond them is not kept. */
const RECORDS_MAX = 2_000;
/** Containers that a record tells apart. */
const COUNTS_MAX = 256;
/** Model days whose number of records is remembered. */
const SIZES_MAX = 10_000;
const TRIES_MAX = 20;
const SLICE = 2_000;
const DAY_MS = 24 * 3_600_000;
const CONTAINERS_MAX = 10_000;

/** Day in UTC, for example `2026-11-25`. */
export function dayOf(ms: number): string {
  return new Date(ms).toISOString().slice(0, 10);
}

function earlier(a: Timestamp | undefined, b: Timestamp | undefined): Timestamp | undefined {
  return a && (!b || timestampDate(a) <= timestampDate(b)) ? a : b;
}

function later(a: Timestamp | undefined, b: Timestamp | undefined): Timestamp | undefined {
  return earlier(a, b) === a ? (b ?? a) : a;
}

function merged(record: JournalRecord, note: JournalNote, nodeId: string): JournalRecord {
  const counts = [...record.counts];
  const at = counts.findIndex((each) => each.nodeId === nodeId && each.containerId === note.containerId);
  const before = counts[at];
  const count = (before?.count ?? 0n) + note.count;
  const effect = Math.max(before?.effect ?? 0, note.effect) as typeof note.effect;
  const next = create(JournalCountSchema, { nodeId, containerId: note.containerId, count, effect });
  const isKept = before !== undefined || counts.length < COUNTS_MAX;
  if (before) counts[at] = next;
  else if (isKept) counts.push(next);
  const firstTime = earlier(record.firstTime, note.firstTime);
  const lastTime = later(record.lastTime, note.lastTime);
  return create(JournalRecordSchema, {
    ...record,
    counts,
    otherCount: record.otherCount + (isKept ? 0n : note.count),
    ...(firstTime ? { firstTime } : {}),
    ...(lastTime ? { lastTime } : {}),
  });
}

function newRecord({ modelKey, outcome, event }: JournalNote, day: string): JournalRecord {
  return create(JournalRecordSchema, { modelKey, day, outcome, ...(event ? { event } : {}) });
}

/**
 * What happened, by model and day, once for all that is equal: rules are tried on it. A batch that an agent sends again
 * after a lost connection may count twice, which no decision hangs on.
 */
export class Journal {
  readonly #records: Collection<JournalRecord>;
  readonly #containers: Collection<Container>;
  readonly #clock: Clock;
  /** Records by model and day, as far as this process has counted them. */
  readonly #sizes = new Map<string, number>();

  constructor(records: Collection<JournalRecord>, containers: Collection<Container>, clock: Clock) {
    this.#records = records;
    this.#containers = containers;
    this.#clock = clock;
  }

  /** Takes in what happened on a node. */
  async add(nodeId: string, notes: readonly JournalNote[]): Promise<void> {
    // Replicas tell the same at the same time: one write for all of them.
    const byRecord = Map.groupBy(notes, (note) => this.#idOf(note));
    await Promise.all([...byRecord].map(([id, equal]) => this.#addEqual(nodeId, id, equal)));
  }

  /** Remembers a container that the journal may be of. */
  async meet(container: Container): Promise<void> {
    await this.#containers.insertMissing([{ id: `${container.nodeId}/${container.containerId}`, value: container }]);
  }

  /** Containers of a model, running or not. */
  async containersOf(modelKey: string): Promise<Container[]> {
    const where = [{ field: "modelKey", is: "eq", value: modelKey } as const];
    return (await this.#containers.find({ where, orderBy: "modelKey", limit: CONTAINERS_MAX })).map(
      ({ value }) => value,
    );
  }

  /** Removes days that are over, and containers that began long before. */
  async sweep(keptMs: number): Promise<void> {
    const oldest = this.#clock.now() - keptMs;
    const old = [
      [this.#records, { field: "day", is: "lt", value: dayOf(oldest) }],
      [this.#containers, { field: "startMs", is: "lt", value: oldest - 30 * DAY_MS }],
    ] as const;
    for (const [collection, condition] of old) {
      while ((await collection.deleteWhere([condition], SLICE)) === SLICE);
    }
    this.#sizes.clear();
  }

  #dayOf({ lastTime }: JournalNote): string {
    return dayOf(lastTime ? timestampMs(lastTime) : this.#clock.now());
  }

  #idOf(note: JournalNote): string {
    const what = `${note.outcome} ${journalKey(note.event as Event)}`;
    return `${note.modelKey} ${this.#dayOf(note)} ${createHash("sha256").update(what).digest("hex").slice(0, 32)}`;
  }

  async #addEqual(nodeId: string, id: string, notes: readonly JournalNote[]): Promise<void> {
    const [first] = notes as [JournalNote];
    const day = this.#dayOf(first);
    for (let attempt = 1; ; attempt += 1) {
      const stored = await this.#records.get(id);
      if (!stored && !(await this.#hasRoom(`${first.modelKey} ${day}`))) return;
      const value = notes.reduce(
        (record, note) => merged(record, note, nodeId),
        stored?.value ?? newRecord(first, day),
      );
      if (await this.#write(id, stored, value)) return;
      if (attempt >= TRIES_MAX) throw new Error(`journal record ${id} was changed ${TRIES_MAX} times meanwhile`);
    }
  }

  /** False where another writer was faster. */
  async #write(id: string, stored: Stored<JournalRecord> | undefined, value: JournalRecord): Promise<boolean> {
    if (!stored) return (await this.#records.insertMissing([{ id, value }])) > 0;
    try {
      await this.#records.replace(id, value, stored.revision);
      return true;
    } catch (error) {
      if (error instanceof StaleRevisionError) return false;
      throw error;
    }
  }

  /** Counts a new record of a model and day; false where there are as many as may be. */
  async #hasRoom(modelDay: string): Promise<boolean> {
    const where = [{ field: "modelDay", is: "eq", value: modelDay } as const];
    const size = this.#sizes.get(modelDay) ?? (await this.#records.count(where));
    if (this.#sizes.size >= SIZES_MAX) this.#sizes.clear();
    this.#sizes.set(modelDay, size + 1);
    return size < RECORDS_MAX;
  }
}
