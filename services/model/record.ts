import type { JsonValue } from "@bufbuild/protobuf";
import type { SectionLife } from "#core/model/lifecycle.ts";
import type { Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { ItemSource, ItemStatus, LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import type { DigestSource } from "#gen/gabion/workload/v1/workload_pb.ts";
import type { CollectionSpec } from "#lib/store/port.ts";
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
}

/** Items that a section holds at most. */
export const ITEMS_MAX = 5_000;
/** Transitions and agent runs that a model remembers. */
export const TRANSITIONS_MAX = 100;
export const RUNS_MAX = 1_000;

/** When the model falls due for the clock, in ms; a far date while nothing is. */
export type DueOf = (record: ModelRecord) => number;

export function modelCollection(dueOf: DueOf): CollectionSpec<ModelRecord> {
  return {
    name: "models",
    codec: jsonCodec((record) => ({ updateMs: record.updateMs, dueMs: dueOf(record) })),
    fields: { updateMs: {}, dueMs: {} },
  };
}
