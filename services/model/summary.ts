import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { LifecycleDurations } from "#core/model/lifecycle.ts";
import { type Model, ModelSchema } from "#gen/gabion/model/v1/model_pb.ts";
import { headOf, type PublishedHead } from "#lib/bus/head-publisher.ts";
import type { Collection, Fields, Query, Stored, StoredFields } from "#lib/store/port.ts";
import { toModel } from "./message.ts";
import { publishedBody } from "./models.ts";
import type { ModelRecord } from "./record.ts";

/** Summaries that are read at once where all are wanted. */
const SLICE = 1_000;

/** A model as lists show it: without items, transitions and static analysis. */
function summaryOf(stored: Stored<ModelRecord>, durations: LifecycleDurations): Model {
  const { staticAnalysis: _, ...model } = toModel(stored, durations, { hasItems: false });
  return create(ModelSchema, { ...model, transitions: [] });
}

/** What stands beside the body of a model: its summary, and the head that is published of it. */
export function summaryFields(record: ModelRecord, durations: LifecycleDurations): Fields {
  const { digest, size } = headOf(publishedBody("", record));
  const summary = toBinary(ModelSchema, summaryOf({ id: "", revision: 0, value: record }, durations));
  return {
    summary: Buffer.from(summary).toString("base64"),
    policyRevision: record.policyRevision,
    policyDigest: digest,
    policySize: size,
  };
}

/** Models as lists show them, read without what was learned: a page costs as much as it shows. */
export class Summaries {
  readonly #collection: Collection<ModelRecord>;
  readonly #durations: LifecycleDurations;

  constructor(collection: Collection<ModelRecord>, durations: LifecycleDurations) {
    this.#collection = collection;
    this.#durations = durations;
  }

  async find(query: Query): Promise<Stored<Model>[]> {
    const found = await this.#collection.findFields(query);
    const read = await Promise.all(found.map((each) => this.#read(each)));
    return read.flatMap((each) => each ?? []);
  }

  /** All models, a few at a time. */
  async *all(): AsyncIterable<Stored<Model>> {
    for await (const fields of this.#allFields()) {
      const summary = await this.#read(fields);
      if (summary) yield summary;
    }
  }

  /** What is to be published of all models. */
  async *heads(keyOnBus: (modelKey: string) => string): AsyncIterable<PublishedHead> {
    for await (const { id, fields } of this.#allFields()) {
      const { policyRevision, policyDigest, policySize } = fields;
      if (typeof policyRevision === "number" && typeof policyDigest === "string" && typeof policySize === "number") {
        yield { key: keyOnBus(id), revision: BigInt(policyRevision), digest: policyDigest, size: policySize };
        continue;
      }
      const stored = await this.#collection.get(id);
      if (stored) yield headOf(publishedBody(id, stored.value));
    }
  }

  async *#allFields(): AsyncIterable<StoredFields> {
    let after: { value: string; id: string } | undefined;
    for (;;) {
      const slice = await this.#collection.findFields({ limit: SLICE, ...(after ? { after } : {}) });
      yield* slice;
      const last = slice.at(-1);
      if (!last || slice.length < SLICE) return;
      after = { value: last.id, id: last.id };
    }
  }

  /** A model that was written before there were summaries is read whole. */
  async #read({ id, revision, fields }: StoredFields): Promise<Stored<Model> | undefined> {
    const { summary } = fields;
    if (typeof summary === "string") {
      const model = fromBinary(ModelSchema, Buffer.from(summary, "base64"));
      return { id, revision, value: { ...model, modelKey: id, etag: String(revision) } };
    }
    const stored = await this.#collection.get(id);
    return stored && { id, revision: stored.revision, value: summaryOf(stored, this.#durations) };
  }
}
