import { create } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { LifecycleDurations } from "#core/model/lifecycle.ts";
import {
  ItemStatus,
  LearningState,
  type Model,
  type ModelItem,
  ModelItemSchema,
  ModelSchema,
  type ModelSection,
  ModelSectionSchema,
  ModelTransitionSchema,
  StaticAnalysisSchema,
  StaticLibrarySchema,
} from "#gen/gabion/model/v1/model_pb.ts";
import { ModelScopeSchema } from "#gen/gabion/workload/v1/workload_pb.ts";
import type { Stored } from "#lib/store/port.ts";
import { factOf } from "./items.ts";
import { leastAdvanced } from "./life.ts";
import { completenessOf } from "./policy-body.ts";
import type { AnalysisRecord, ItemRecord, ModelRecord, SectionRecord } from "./record.ts";

/** Replicas from which on one that does something alone stands out. */
const REPLICAS_MIN = 3;

/** An item as operators see it. */
export function toItem(itemId: string, item: ItemRecord, containerTotal: number): ModelItem {
  const seenIn = item.seenIn?.length ?? 0;
  return create(ModelItemSchema, {
    itemId,
    fact: factOf(item),
    source: item.source,
    status: item.status,
    firstSeenTime: timestampFromMs(item.firstSeenMs),
    lastSeenTime: timestampFromMs(item.lastSeenMs),
    count: BigInt(item.count),
    unitCount: item.unitCount,
    firstContainerId: item.firstContainerId,
    reason: item.reason,
    parentPaths: [...item.parentPaths],
    folded: [...(item.folded ?? [])],
    foldedCount: item.foldedCount ?? 0,
    isPinned: item.isPinned ?? false,
    containerCount: seenIn,
    isSingular: seenIn === 1 && containerTotal >= REPLICAS_MIN,
    contentSha256: item.contentSha256 ?? "",
  });
}

function requiredMs(state: LearningState, durations: LifecycleDurations): number | undefined {
  if (state === LearningState.LEARNING) return durations.learningMs;
  return state === LearningState.RELEARNING ? durations.relearningMs : undefined;
}

function endMs(section: SectionRecord, record: ModelRecord, durations: LifecycleDurations): number | undefined {
  const { state, elapsedMs } = section.life;
  if (record.archivedMs !== null) return undefined;
  if (state === LearningState.DRY_RUN) return record.countedMs + durations.dryRunMs - elapsedMs;
  if (state === LearningState.EXTENDED_LEARNING) return record.countedMs + durations.extendedLearningMs - elapsedMs;
  return undefined;
}

function toSection(
  section: SectionRecord,
  record: ModelRecord,
  durations: LifecycleDurations,
  hasItems: boolean,
): ModelSection {
  const required = requiredMs(section.life.state, durations);
  const end = endMs(section, record, durations);
  return create(ModelSectionSchema, {
    section: section.section,
    state: section.life.state,
    observed: durationFromMs(section.life.observedMs),
    ...(required === undefined ? {} : { required: durationFromMs(required) }),
    ...(end === undefined ? {} : { endTime: timestampFromMs(end) }),
    enterTime: timestampFromMs(section.enterMs),
    hadDryRun: section.life.hadDryRun,
    completeness: completenessOf(section),
    isFull: section.isFull,
    itemCount: Object.keys(section.items).length,
    items: hasItems
      ? Object.entries(section.items).map(([id, item]) => toItem(id, item, record.containerTotal ?? 0))
      : [],
  });
}

function toAnalysis({ analyzeMs, unresolved, files, libraries }: AnalysisRecord) {
  return create(StaticAnalysisSchema, {
    analyzeTime: timestampFromMs(analyzeMs),
    unresolved: [...unresolved],
    files: [...files],
    libraries: libraries.map((library) => create(StaticLibrarySchema, library)),
  });
}

/** Items that wait for a person. */
export function heldCount({ sections }: ModelRecord): number {
  const items = sections.flatMap((section) => Object.values(section.items));
  return items.filter(({ status }) => status === ItemStatus.HELD).length;
}

/** A model as operators see it. */
export function toModel(
  { id, revision, value }: Stored<ModelRecord>,
  durations: LifecycleDurations,
  { hasItems = true } = {},
): Model {
  const { cluster, namespace, workload, imageDigest } = value;
  return create(ModelSchema, {
    modelKey: id,
    scope: create(ModelScopeSchema, { cluster, namespace, workload, imageDigest }),
    imageName: value.imageName,
    digestSource: value.digestSource,
    state: leastAdvanced(value.sections),
    sections: value.sections.map((section) => toSection(section, value, durations, hasItems)),
    isArchived: value.archivedMs !== null,
    ...(value.archivedMs === null ? {} : { purgeTime: timestampFromMs(value.archivedMs + durations.archiveMs) }),
    containerCount: Object.keys(value.containers).length,
    revision: BigInt(value.policyRevision),
    etag: String(revision),
    createTime: timestampFromMs(value.createMs),
    updateTime: timestampFromMs(value.updateMs),
    containerTotal: value.containerTotal ?? 0,
    ...(value.analysis ? { staticAnalysis: toAnalysis(value.analysis) } : {}),
    inheritedFrom: value.inheritedFrom ?? "",
    heldCount: heldCount(value),
    transitions: value.transitions.map(({ timeMs, section, from, to, cause }) =>
      create(ModelTransitionSchema, {
        transitionTime: timestampFromMs(timeMs),
        section,
        fromState: from,
        toState: to,
        cause,
      }),
    ),
  });
}
