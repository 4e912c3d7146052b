import { setTimeout as sleep } from "node:timers/promises";
import type { LifecycleDurations } from "#core/model/lifecycle.ts";
import type { Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import type { PublishedBody } from "#lib/bus/head-publisher.ts";
import { modelKeyOnBus } from "#lib/bus/topology.ts";
import type { Clock } from "#lib/flow/clock.ts";
import { notFound, staleEtag } from "#lib/rpc/errors.ts";
import { AlreadyExistsError, type Collection, StaleRevisionError, type Stored } from "#lib/store/port.ts";
import type { Logger } from "#lib/telemetry/log.ts";
import { fleetId } from "./fleet.ts";
import { type HistoryLog, withHistory } from "./history.ts";
import { isPolicyChange, withContainer } from "./learn.ts";
import { archiveOrReturn, countTime, newSection } from "./life.ts";
import { inheritItems, withAnalysis } from "./operations.ts";
import { withNewPolicy } from "./policy-body.ts";
import { RecentModels } from "./recent-models.ts";
import { lineageOf, type ModelRecord } from "./record.ts";

/** Tries of a change when another replica changes the same model. */
const TRIES_MAX = 20;
const MAX_WAIT_MS = 50;
/** Models that are moved on at a time, and how often at one tick. */
const DUE_SLICE = 32;
const DUE_ROUNDS_MAX = 32;

export interface ModelsOptions {
  readonly collection: Collection<ModelRecord>;
  readonly clock: Clock;
  readonly durations: LifecycleDurations;
  /** Told of every change, after it is durable; `undefined` for a removed model. */
  readonly onChange: (modelKey: string, model: Stored<ModelRecord> | undefined) => void;
  readonly publish: (body: PublishedBody) => void;
  readonly unpublish: (key: string) => void;
  readonly history: HistoryLog;
  /** Carries the items of the image's digest before over into a new model. */
  readonly carriesOver: boolean;
  readonly logger: Logger;
}

type Change = (record: ModelRecord) => ModelRecord;

/** The body of a model as it is published. */
export function publishedBody(modelKey: string, record: ModelRecord): PublishedBody {
  const body = Buffer.from(record.policy, "base64");
  return { key: modelKeyOnBus(modelKey), revision: BigInt(record.policyRevision), body };
}

/** Changes models one after another per key, durably, and tells the bus and watchers what came of it. */
export class Models {
  readonly #options: ModelsOptions;
  readonly #turns = new Map<string, Promise<unknown>>();
  readonly #recent = new RecentModels();

  constructor(options: ModelsOptions) {
    this.#options = options;
  }

  /** Changes a model; answers undefined where there is none. With an etag only that state of it. */
  change(modelKey: string, change: Change, etag = ""): Promise<Stored<ModelRecord> | undefined> {
    return this.#inTurn(modelKey, () => this.#change(modelKey, change, etag));
  }

  /** As `change`, for callers who need the model to be there. */
  async changeExisting(modelKey: string, change: Change, etag: string): Promise<Stored<ModelRecord>> {
    const changed = await this.change(modelKey, change, etag);
    if (!changed) throw notFound("model", modelKey);
    return changed;
  }

  /** The model of a container, made where it is new, with the given sections in use. */
  ensure(container: Container, sections: readonly Section[]): Promise<Stored<ModelRecord>> {
    return this.#inTurn(container.modelKey, async () => {
      const inherited = await this.#inheritedBy(container.modelKey, sections);
      const use: Change = (record) => {
        const missing = sections.filter((s) => !record.sections.some(({ section }) => section === s));
        const now = this.#options.clock.now();
        const id = fleetId(container.nodeId, container.containerId);
        if (missing.length === 0 && record.containers[id] !== undefined && record.archivedMs === null) return record;
        const added = [...record.sections, ...missing.map((section) => newSection(section, now))];
        const analysed = withAnalysis({ ...record, sections: added }, missing, now);
        const begun = inherited ? inheritItems(analysed, inherited.value, inherited.id, now) : analysed;
        const imageName = container.image?.name || record.imageName;
        const running = withContainer({ ...begun, imageName }, id, container.nodeId);
        return archiveOrReturn(running, this.#options.durations, now);
      };
      // Read anew: another replica may have ended the container's node meanwhile.
      this.#recent.forget(container.modelKey);
      const changed = await this.#change(container.modelKey, use, "");
      return changed ?? this.#create(container, use);
    });
  }

  /** Moves every model on for which the clock has something to do: a change that changes nothing counts the time. */
  async tick(): Promise<void> {
    const { collection, clock, logger } = this.#options;
    for (let round = 0; round < DUE_ROUNDS_MAX; round += 1) {
      const where = [{ field: "dueMs", is: "lte", value: clock.now() } as const];
      const due = await collection.find({ where, orderBy: "dueMs", limit: DUE_SLICE });
      for (const { id, revision, value } of due) {
        // One that cannot be moved on must not keep the others from it.
        await this.#moveOn(id, revision, value).catch((err: unknown) =>
          logger.error({ err, modelKey: id }, "model not moved on"),
        );
      }
      if (due.length < DUE_SLICE) return;
    }
  }

  async #moveOn(modelKey: string, revision: number, record: ModelRecord): Promise<void> {
    if (record.archivedMs !== null) await this.#remove(modelKey, revision, record);
    else await this.change(modelKey, (now) => ({ ...now }));
  }

  async #create(container: Container, use: Change): Promise<Stored<ModelRecord>> {
    const now = this.#options.clock.now();
    const { cluster = "", namespace = "", workload = "" } = container.modelScope ?? {};
    const empty: ModelRecord = {
      cluster,
      namespace,
      workload,
      imageDigest: container.modelScope?.imageDigest ?? "",
      imageName: container.image?.name ?? "",
      digestSource: container.image?.digestSource ?? 0,
      sections: [],
      containers: {},
      archivedMs: null,
      countedMs: now,
      createMs: now,
      updateMs: now,
      transitions: [],
      applied: {},
      // From the clock: a model that is made anew after its removal must not look older to agents than the one before.
      policyRevision: now,
      policy: "",
    };
    const used = await this.#carriedOver(use(empty), now);
    const record = withNewPolicy(container.modelKey, withHistory(undefined, used, now));
    try {
      return this.#done(await this.#options.collection.insert(container.modelKey, record), true);
    } catch (error) {
      if (!(error instanceof AlreadyExistsError)) throw error;
      const changed = await this.#change(container.modelKey, use, "");
      if (!changed) throw error;
      return changed;
    }
  }

  /** Finds the model of the digest before: the one that changed last, of the same image name in the same place. */
  async predecessor(record: ModelRecord): Promise<Stored<ModelRecord> | undefined> {
    const lineage = lineageOf(record);
    if (lineage === "") return undefined;
    const where = [{ field: "lineage", is: "eq", value: lineage } as const];
    const found = await this.#options.collection.find({ where, orderBy: "updateMs", isDescending: true, limit: 2 });
    return found.find(({ value }) => value.imageDigest !== record.imageDigest);
  }

  async #carriedOver(record: ModelRecord, nowMs: number): Promise<ModelRecord> {
    const before = this.#options.carriesOver ? await this.predecessor(record) : undefined;
    return before ? inheritItems(record, before.value, before.id, nowMs) : record;
  }

  /** What a model that began with another's items gets of it for sections that come into use only now. */
  async #inheritedBy(modelKey: string, sections: readonly Section[]): Promise<Stored<ModelRecord> | undefined> {
    const { collection } = this.#options;
    const record = (await collection.get(modelKey))?.value;
    const isNew = (section: Section) => !record?.sections.some((known) => known.section === section);
    if (!record?.inheritedFrom || !sections.some(isNew)) return undefined;
    const before = await collection.get(record.inheritedFrom);
    const later = before?.value.sections.filter(({ section }) => isNew(section)) ?? [];
    return before && { ...before, value: { ...before.value, sections: later } };
  }

  async #read(modelKey: string, mayBeRecent: boolean): Promise<Stored<ModelRecord> | undefined> {
    const recent = mayBeRecent ? this.#recent.get(modelKey) : undefined;
    return recent ?? this.#options.collection.get(modelKey);
  }

  async #change(modelKey: string, change: Change, etag: string): Promise<Stored<ModelRecord> | undefined> {
    for (let attempt = 1; ; attempt += 1) {
      const stored = await this.#read(modelKey, attempt === 1 && etag === "");
      if (!stored) return undefined;
      if (etag !== "" && etag !== String(stored.revision)) throw staleEtag("model");
      try {
        return await this.#changeStored(stored, change);
      } catch (error) {
        if (!(error instanceof StaleRevisionError) || attempt >= TRIES_MAX) throw error;
        this.#recent.forget(modelKey);
        // Another replica writes the same model: whoever lost waits a little, so that it is not always the same one.
        await sleep(Math.random() * Math.min(MAX_WAIT_MS, 2 ** attempt));
      }
    }
  }

  /** Time is counted up to now before anything else, so that a state that begins now is not given time gone by. */
  async #changeStored(stored: Stored<ModelRecord>, change: Change): Promise<Stored<ModelRecord>> {
    const { collection, clock, durations, history } = this.#options;
    const counted = countTime(stored.value, durations, clock.now());
    const changed = change(counted);
    const isPolicy = isPolicyChange(stored.value, changed);
    if (changed === counted && !isPolicy) return stored;
    const told = withHistory(stored.value, history.trimmed(stored.id, changed), clock.now());
    const next = { ...(isPolicy ? withNewPolicy(stored.id, told) : told), updateMs: clock.now() };
    return this.#done(await collection.replace(stored.id, next, stored.revision), isPolicy);
  }

  #done(stored: Stored<ModelRecord>, isPolicy: boolean): Stored<ModelRecord> {
    const { history, logger } = this.#options;
    this.#recent.put(stored);
    // What does not get into the log now is still in the model, and gets there with its next change.
    history
      .carry(stored.id, stored.value)
      .catch((err: unknown) => logger.warn({ err, modelKey: stored.id }, "history not logged"));
    if (isPolicy) this.#options.publish(publishedBody(stored.id, stored.value));
    this.#options.onChange(stored.id, stored);
    return stored;
  }

  async #remove(modelKey: string, revision: number, record: ModelRecord): Promise<void> {
    try {
      await this.#options.collection.delete(modelKey, revision);
    } catch (error) {
      if (error instanceof StaleRevisionError) return;
      throw error;
    }
    this.#recent.forget(modelKey);
    await this.#options.history.remove(modelKey, record);
    this.#options.unpublish(modelKeyOnBus(modelKey));
    this.#options.onChange(modelKey, undefined);
  }

  async #inTurn<T>(key: string, run: () => Promise<T>): Promise<T> {
    const before = this.#turns.get(key) ?? Promise.resolve();
    const mine = before.then(run, run);
    this.#turns.set(key, mine);
    try {
      return await mine;
    } finally {
      if (this.#turns.get(key) === mine) this.#turns.delete(key);
    }
  }
}
