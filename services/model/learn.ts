import { toJson } from "@bufbuild/protobuf";
import { durationMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { factId, sectionOfFact } from "#core/model/fact.ts";
import { isFamily } from "#core/model/item-pattern.ts";
import { isLearning, type LifecycleDurations } from "#core/model/lifecycle.ts";
import {
  type ContainerPresence,
  type Fact,
  FactSchema,
  ItemSource,
  ItemStatus,
  LearningState,
  type ObservedFact,
  type PresenceSpan,
  type SeenUnit,
} from "#gen/gabion/model/v1/model_pb.ts";
import { fleetId } from "./fleet.ts";
import { familyOf, ItemsDraft, seenIn, withParent } from "./items.ts";
import { archiveOrReturn, stepSection } from "./life.ts";
import { completenessOf } from "./policy-body.ts";
import { CONTAINERS_MAX, type ItemRecord, type ModelRecord, RUNS_MAX, type SectionRecord } from "./record.ts";

/** What one batch says of one model. */
export interface ModelBatch {
  facts: ObservedFact[];
  seenUnits: SeenUnit[];
  spans: PresenceSpan[];
  containers: ContainerPresence[];
}

/** Containers that are remembered to count each once. */
const LAST_CONTAINERS_MAX = 64;
/** The longest span that one report may claim: agents report every few seconds. */
const SPAN_MAX_MS = 10 * 60_000;
function parentOf({ fact }: ObservedFact): string {
  return fact?.kind.case === "process" ? fact.kind.value.parentPath : "";
}

function newItem(observed: ObservedFact, nowMs: number): ItemRecord {
  const parent = parentOf(observed);
  const seenMs = observed.seenTime ? timestampMs(observed.seenTime) : nowMs;
  const why = observed.detector === "" ? "its content could not be read" : `seen together with ${observed.detector}`;
  return {
    fact: observed.fact ? toJson(FactSchema, observed.fact) : null,
    source: ItemSource.BEHAVIOR,
    status: observed.isHeld ? ItemStatus.HELD : ItemStatus.ALLOWED,
    firstSeenMs: seenMs,
    lastSeenMs: seenMs,
    count: 0,
    unitCount: 0,
    firstContainerId: observed.containerId,
    reason: observed.isHeld ? why : "seen in a running container",
    parentPaths: parent === "" ? [] : [parent],
    seenIn: [observed.containerId],
  };
}

/** What one fact does to the items of a section that learns. */
function learnFact(draft: ItemsDraft, fact: Fact, observed: ObservedFact, nowMs: number): "known" | "new" | "full" {
  const { containerId, isHeld } = observed;
  // Families are made here and by people; what a node says was seen is one thing.
  if (isFamily(fact)) return "known";
  const id = factId(fact);
  const known = draft.items[id];
  // Who started it in an attack is not who may start it.
  if (known && isHeld) return "known";
  if (known) {
    draft.put(id, seenIn(withParent(known, parentOf(observed)), containerId));
    return "known";
  }
  // An agent that has not heard of a family yet reports its members by themselves.
  const family = isHeld ? undefined : familyOf(draft.items, fact);
  if (family !== undefined) {
    draft.put(family, seenIn(draft.items[family] as ItemRecord, containerId));
    return "known";
  }
  if (draft.isFull) return "full";
  draft.add(id, newItem(observed, nowMs));
  return "new";
}

/** Takes facts into their section, where the section's state lets it learn. */
function learnFacts(section: SectionRecord, facts: readonly ObservedFact[], nowMs: number): SectionRecord {
  const isOpen = isLearning(section.life.state) || section.life.state === LearningState.DRY_RUN;
  if (!isOpen || facts.length === 0) return section;
  const draft = new ItemsDraft(section.items);
  const found = new Set(facts.map((observed) => observed.fact && learnFact(draft, observed.fact, observed, nowMs)));
  return {
    ...section,
    items: draft.items,
    isFull: section.isFull || found.has("full"),
    lastNewItemMs: found.has("new") ? nowMs : section.lastNewItemMs,
  };
}

function countSeen(section: SectionRecord, unit: SeenUnit, nowMs: number): SectionRecord {
  const items = { ...section.items };
  unit.itemIds.forEach((id, at) => {
    const item = items[id];
    if (!item) return;
    const unitCount = item.unitCount + (unit.isFirst[at] ? 1 : 0);
    items[id] = {
      ...seenIn(item, unit.containerId),
      count: item.count + (unit.counts[at] ?? 0),
      unitCount,
      lastSeenMs: nowMs,
    };
  });
  return { ...section, items, unitCount: section.unitCount + (unit.isFirstPart ? 1 : 0) };
}

function mapSection(
  record: ModelRecord,
  wanted: SectionRecord["section"],
  change: (section: SectionRecord) => SectionRecord,
): ModelRecord {
  return { ...record, sections: record.sections.map((s) => (s.section === wanted ? change(s) : s)) };
}

/** A span teaches time only where nothing was lost in it; the loss is kept either way. */
function applySpan(record: ModelRecord, span: PresenceSpan, durations: LifecycleDurations, nowMs: number): ModelRecord {
  const lost = Number(span.lostEventCount);
  if (lost > 0) {
    return mapSection(record, span.section, (s) => ({ ...s, lostEventCount: s.lostEventCount + lost }));
  }
  const ms = Math.min(SPAN_MAX_MS, Math.max(0, span.attached ? durationMs(span.attached) : 0));
  const section = record.sections.find((s) => s.section === span.section);
  const isUnfinished = section !== undefined && isPlainlyUnfinished(section, durations);
  return stepSection(record, span.section, { kind: "observed", ms, isUnfinished }, durations, nowMs);
}

/** More new behaviour is to be expected than the setting lets a finished model have; never without the setting. */
function isPlainlyUnfinished(section: SectionRecord, { extension }: LifecycleDurations): boolean {
  if (!extension || section.life.observedMs >= extension.maxMs) return false;
  const { expectedNewPerDayUpper } = completenessOf(section);
  return expectedNewPerDayUpper === undefined || expectedNewPerDayUpper > extension.maxNewPerDay;
}

function applyFacts(
  record: ModelRecord,
  facts: readonly ObservedFact[],
  durations: LifecycleDurations,
  nowMs: number,
): ModelRecord {
  return record.sections.reduce((model, { section }) => {
    const own = facts.filter(({ fact }) => fact !== undefined && sectionOfFact(fact) === section);
    if (own.length === 0) return model;
    const learned = mapSection(model, section, (s) => learnFacts(s, own, nowMs));
    const isDeviation = own.some((observed) => observed.isDeviation);
    return isDeviation ? stepSection(learned, section, { kind: "deviation" }, durations, nowMs) : learned;
  }, record);
}

function applyPresence(record: ModelRecord, { container, isRunning }: ContainerPresence): ModelRecord {
  if (!container) return record;
  const id = fleetId(container.nodeId, container.containerId);
  const { [id]: _, ...others } = record.containers;
  return isRunning ? withContainer(record, id, container.nodeId) : { ...record, containers: others };
}

/** The record with a container that runs it. A container that is named again, by an agent that restarted, is the same. */
export function withContainer(record: ModelRecord, id: string, nodeId: string): ModelRecord {
  const last = record.lastContainers ?? [];
  const containers = { ...record.containers, [id]: nodeId };
  if (last.includes(id)) return { ...record, containers };
  const containerTotal = Math.min(CONTAINERS_MAX, (record.containerTotal ?? 0) + 1);
  return { ...record, containers, containerTotal, lastContainers: [...last, id].slice(-LAST_CONTAINERS_MAX) };
}

function remember(applied: ModelRecord["applied"], runId: string, sequence: number): ModelRecord["applied"] {
  const { [runId]: _, ...others } = applied;
  return Object.fromEntries([...Object.entries(others), [runId, sequence] as const].slice(-RUNS_MAX));
}

/** The record after one batch of one agent run. A batch that was applied before changes nothing. */
export function applyBatch(
  record: ModelRecord,
  batch: ModelBatch,
  from: { readonly nodeId: string; readonly runId: string; readonly sequence: number },
  durations: LifecycleDurations,
  nowMs: number,
): ModelRecord {
  if ((record.applied[from.runId] ?? 0) >= from.sequence) return record;
  let next = record;
  for (const presence of batch.containers.filter((c) => c.isRunning)) next = applyPresence(next, presence);
  next = archiveOrReturn(next, durations, nowMs);
  // Only containers that this node is known to run may teach a model.
  const isOwn = ({ containerId }: { containerId: string }) =>
    next.containers[fleetId(from.nodeId, containerId)] !== undefined;
  next = applyFacts(next, batch.facts.filter(isOwn), durations, nowMs);
  for (const unit of batch.seenUnits.filter(isOwn))
    next = mapSection(next, unit.section, (s) => countSeen(s, unit, nowMs));
  for (const span of batch.spans.filter(isOwn)) next = applySpan(next, span, durations, nowMs);
  for (const presence of batch.containers.filter((c) => !c.isRunning)) next = applyPresence(next, presence);
  next = archiveOrReturn(next, durations, nowMs);
  return { ...next, applied: remember(next.applied, from.runId, from.sequence), updateMs: nowMs };
}

function isSamePolicy(before: SectionRecord, after: SectionRecord): boolean {
  if (before === after) return true;
  if (before.life.state !== after.life.state || before.isFull !== after.isFull) return false;
  if (before.items === after.items) return true;
  const ids = Object.keys(after.items);
  if (ids.length !== Object.keys(before.items).length) return false;
  return ids.every((id) => {
    const old = before.items[id];
    const now = after.items[id] as ItemRecord;
    return old === now || (old?.status === now.status && old.parentPaths.length === now.parentPaths.length);
  });
}

/** True if two records differ in what agents enforce. */
export function isPolicyChange(before: ModelRecord, after: ModelRecord): boolean {
  return (
    before.sections.length !== after.sections.length ||
    !after.sections.every((section, i) => isSamePolicy(before.sections[i] as SectionRecord, section))
  );
}
