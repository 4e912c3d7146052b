import { toJson } from "@bufbuild/protobuf";
import { durationMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { factId, PARENTS_MAX, sectionOfFact } from "#core/model/fact.ts";
import { isLearning, type LifecycleDurations } from "#core/model/lifecycle.ts";
import {
  type ContainerPresence,
  FactSchema,
  ItemSource,
  ItemStatus,
  LearningState,
  type ObservedFact,
  type PresenceSpan,
  type SeenUnit,
} from "#gen/gabion/model/v1/model_pb.ts";
import { fleetId } from "./fleet.ts";
import { archiveOrReturn, stepSection } from "./life.ts";
import { ITEMS_MAX, type ItemRecord, type ModelRecord, RUNS_MAX, type SectionRecord } from "./record.ts";

/** What one batch says of one model. */
export interface ModelBatch {
  facts: ObservedFact[];
  seenUnits: SeenUnit[];
  spans: PresenceSpan[];
  containers: ContainerPresence[];
}

/** The longest span that one report may claim: agents report every few seconds. */
const SPAN_MAX_MS = 10 * 60_000;
/** Texts of all items of a section together, so that a model always fits into one message. */
const SECTION_MAX_BYTES = 1024 * 1024;

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
  };
}

function withParent(item: ItemRecord, parent: string): ItemRecord {
  const isNew = parent !== "" && !item.parentPaths.includes(parent) && item.parentPaths.length < PARENTS_MAX;
  return isNew ? { ...item, parentPaths: [...item.parentPaths, parent] } : item;
}

function isFull(section: SectionRecord): boolean {
  const items = Object.values(section.items);
  const bytes = items.reduce((sum, { fact }) => sum + JSON.stringify(fact).length, 0);
  return items.length >= ITEMS_MAX || bytes >= SECTION_MAX_BYTES;
}

/** Takes a fact into its section, where the section's state lets it learn. */
function learnFact(section: SectionRecord, observed: ObservedFact, nowMs: number): SectionRecord {
  const { fact } = observed;
  const isOpen = isLearning(section.life.state) || section.life.state === LearningState.DRY_RUN;
  if (!fact || !isOpen) return section;
  const id = factId(fact);
  const known = section.items[id];
  // Who started it in an attack is not who may start it.
  if (known && observed.isHeld) return section;
  if (known) return { ...section, items: { ...section.items, [id]: withParent(known, parentOf(observed)) } };
  if (isFull(section)) return { ...section, isFull: true };
  return { ...section, items: { ...section.items, [id]: newItem(observed, nowMs) }, lastNewItemMs: nowMs };
}

function countSeen(section: SectionRecord, unit: SeenUnit, nowMs: number): SectionRecord {
  const items = { ...section.items };
  unit.itemIds.forEach((id, at) => {
    const item = items[id];
    if (!item) return;
    const unitCount = item.unitCount + (unit.isFirst[at] ? 1 : 0);
    items[id] = { ...item, count: item.count + (unit.counts[at] ?? 0), unitCount, lastSeenMs: nowMs };
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
  return stepSection(record, span.section, { kind: "observed", ms }, durations, nowMs);
}

function applyFact(
  record: ModelRecord,
  observed: ObservedFact,
  durations: LifecycleDurations,
  nowMs: number,
): ModelRecord {
  const section = observed.fact ? sectionOfFact(observed.fact) : 0;
  const learned = mapSection(record, section, (s) => learnFact(s, observed, nowMs));
  return observed.isDeviation ? stepSection(learned, section, { kind: "deviation" }, durations, nowMs) : learned;
}

function applyPresence(record: ModelRecord, { container, isRunning }: ContainerPresence): ModelRecord {
  if (!container) return record;
  const id = fleetId(container.nodeId, container.containerId);
  const { [id]: _, ...others } = record.containers;
  return { ...record, containers: isRunning ? { ...others, [id]: container.nodeId } : others };
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
  for (const fact of batch.facts.filter(isOwn)) next = applyFact(next, fact, durations, nowMs);
  for (const unit of batch.seenUnits.filter(isOwn))
    next = mapSection(next, unit.section, (s) => countSeen(s, unit, nowMs));
  for (const span of batch.spans.filter(isOwn)) next = applySpan(next, span, durations, nowMs);
  for (const presence of batch.containers.filter((c) => !c.isRunning)) next = applyPresence(next, presence);
  next = archiveOrReturn(next, durations, nowMs);
  return { ...next, applied: remember(next.applied, from.runId, from.sequence), updateMs: nowMs };
}

/** True if two records differ in what agents enforce. */
export function isPolicyChange(before: ModelRecord, after: ModelRecord): boolean {
  const essence = (record: ModelRecord) =>
    record.sections.map(({ section, life, items }) => [
      section,
      life.state,
      Object.entries(items).map(([id, { status, parentPaths }]) => [id, status, parentPaths.length]),
    ]);
  return JSON.stringify(essence(before)) !== JSON.stringify(essence(after));
}
