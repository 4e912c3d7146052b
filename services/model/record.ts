import type { JsonValue } from "@bufbuild/protobuf";
import type { SectionLife } from "#core/model/lifecycle.ts";
import type { Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { ItemSource, ItemStatus, LearningState, ModelHistoryKind } from "#gen/gabion/model/v1/model_pb.ts";
import type { DigestSource } from "#gen/gabion/workload/v1/workload_pb.ts";
import { packedCodec } from "#lib/store/packed-codec.ts";
import type { Collection, CollectionSpec, Fields, Stored } from "#lib/store/port.ts";
import { jsonCodec } from "#lib/store/proto-codec.ts";

/** One learned item as stored. */
export interface ItemRecord {
  /** JSON form of `gabion.model.v1.Fact`. */
  readonly fact: JsonValue;
  readonly source: ItemSource;
  readonly status: ItemStatus;
  readonly firstSeenMs: number;
  readonly lastSeenMs: number;
  readonly count: number;
  readonly unitCount: number;
  readonly firstContainerId: string;
  readonly reason: string;
  readonly parentPaths: readonly string[];
  /** Containers that it was seen in, up to SEEN_IN_MAX. */
  readonly seenIn?: readonly string[];
  /** Of a family: members as text, up to FOLDED_MAX, and how many there were. */
  readonly folded?: readonly string[];
  readonly foldedCount?: number;
  readonly isPinned?: boolean;
  readonly contentSha256?: string;
}

/** One section as stored. */
export interface SectionRecord {
  readonly section: Section;
  readonly life: SectionLife;
  readonly enterMs: number;
  readonly items: Readonly<Record<string, ItemRecord>>;
  readonly unitCount: number;
  readonly lostEventCount: number;
  readonly lastNewItemMs: number;
  readonly isFull: boolean;
}

export interface TransitionRecord {
  readonly timeMs: number;
  readonly section: Section;
  readonly from: LearningState;
  readonly to: LearningState;
  readonly cause: string;
}

/** What static analysis found besides items. */
export interface AnalysisRecord {
  readonly analyzeMs: number;
  /** Items as found, by JSON form: a section that comes into use later begins with its own. */
  readonly items: readonly { readonly fact: JsonValue; readonly reason: string; readonly contentSha256: string }[];
  readonly unresolved: readonly string[];
  readonly files: readonly string[];
  readonly libraries: readonly { readonly path: string; readonly sha256: string; readonly neededBy: string }[];
}

/** An entry of the history. */
export interface HistoryRecord {
  readonly sequence: number;
  readonly timeMs: number;
  readonly kind: ModelHistoryKind;
  readonly section: Section;
  readonly itemId: string;
  readonly text: string;
}

/** A whole model as stored: one document, so that it changes atomically. */
export interface ModelRecord {
  readonly cluster: string;
  readonly namespace: string;
  readonly workload: string;
  readonly imageDigest: string;
  readonly imageName: string;
  readonly digestSource: DigestSource;
  readonly sections: readonly SectionRecord[];
  /** Running containers, with their node. */
  readonly containers: Readonly<Record<string, string>>;
  /** Set while no container runs it. */
  readonly archivedMs: number | null;
  /** Up to when wall-clock time is counted in the sections' lives. */
  readonly countedMs: number;
  readonly createMs: number;
  readonly updateMs: number;
  readonly transitions: readonly TransitionRecord[];
  /** Highest batch applied, by agent run: a batch that is sent again changes nothing. */
  readonly applied: Readonly<Record<string, number>>;
  /** Grows with every change of items or states. */
  readonly policyRevision: number;
  /** Serialized `ModelPolicy` of that revision, base64. */
  readonly policy: string;
  /** Distinct containers that ever ran it, up to CONTAINERS_MAX, and the last of them. */
  readonly containerTotal?: number;
  readonly lastContainers?: readonly string[];
  readonly analysis?: AnalysisRecord;
  readonly inheritedFrom?: string;
  /** Entries that may not be in the log yet: written with what they tell of, so that neither is there alone. */
  readonly history?: readonly HistoryRecord[];
  readonly historySequence?: number;
}

/** Items that a section holds at most. */
export const ITEMS_MAX = 5_000;
/** Transitions and agent runs that a model remembers. */
export const TRANSITIONS_MAX = 100;
export const RUNS_MAX = 1_000;
export const SEEN_IN_MAX = 16;
export const FOLDED_MAX = 64;
export const CONTAINERS_MAX = 1_000;
/** Entries of the history that wait for the log: what one change can bring at most, an import that fills every section. */
export const HISTORY_PENDING_MAX = 30_000;

/** The repository of an image name: without tag and digest. */
export function repositoryOf(imageName: string): string {
  return imageName.replace(/@.*$/, "").replace(/:[^/:]*$/, "");
}

/** What the models of one image's successive digests share; empty where the image has no name. */
export function lineageOf({ cluster, namespace, workload, imageName }: ModelRecord): string {
  return imageName === "" ? "" : JSON.stringify([cluster, namespace, workload, repositoryOf(imageName)]);
}

/** When the model falls due for the clock, in ms; a far date while nothing is. */
export type DueOf = (record: ModelRecord) => number;

/** The models, with `more` beside each body: what is shown of many of them at once. */
export function modelCollection(dueOf: DueOf, more: (record: ModelRecord) => Fields): CollectionSpec<ModelRecord> {
  return {
    name: "models",
    codec: packedCodec(
      jsonCodec((record) => ({
        updateMs: record.updateMs,
        dueMs: dueOf(record),
        imageName: record.imageName,
        imageDigest: record.imageDigest,
        lineage: lineageOf(record),
        ...more(record),
      })),
    ),
    fields: {
      updateMs: {},
      dueMs: {},
      imageName: {},
      imageDigest: {},
      lineage: { orderedBy: "updateMs" },
    },
  };
}

/** Models that are read at once where all are wanted: one may be a megabyte. */
const SLICE = 32;

/** All models by key, a few at a time. */
export async function* allModels(collection: Collection<ModelRecord>): AsyncIterable<Stored<ModelRecord>> {
  let after: { value: string; id: string } | undefined;
  for (;;) {
    const slice = await collection.find({ limit: SLICE, ...(after ? { after } : {}) });
    yield* slice;
    const last = slice.at(-1);
    if (!last || slice.length < SLICE) return;
    after = { value: last.id, id: last.id };
  }
}
