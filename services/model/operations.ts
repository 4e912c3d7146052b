import { fromJson, toJson } from "@bufbuild/protobuf";
import { factId, sectionOfFact } from "#core/model/fact.ts";
import { isLearning, type LifecycleDurations } from "#core/model/lifecycle.ts";
import { ContentState, type Section } from "#gen/gabion/event/v1/event_pb.ts";
import {
  type Fact,
  FactSchema,
  ItemSource,
  ItemStatus,
  LearningState,
  type StaticAnalysis,
} from "#gen/gabion/model/v1/model_pb.ts";
import { invalidRequest } from "#lib/rpc/errors.ts";
import { coversRefused, factOf, givenItem, ItemsDraft, unfoldItems } from "./items.ts";
import { archiveOrReturn, newSection } from "./life.ts";
import type { ItemRecord, ModelRecord, SectionRecord } from "./record.ts";

/** A fact that somebody gives to a model, with what is known of it. */
export interface GivenFact {
  readonly fact: Fact;
  readonly item: ItemRecord;
}

function addTo(section: SectionRecord, given: readonly GivenFact[], acceptsHeld: boolean): SectionRecord {
  const draft = new ItemsDraft(section.items);
  for (const { fact, item } of given) {
    const id = factId(fact);
    const known = draft.items[id];
    if (known && !(acceptsHeld && known.status === ItemStatus.HELD)) continue;
    if (!known && coversRefused(draft.items, fact)) continue;
    if (draft.isFull) return { ...section, items: draft.items, isFull: true };
    draft.put(id, item);
  }
  return draft.items === section.items ? section : { ...section, items: draft.items };
}

/**
 * The record with facts from outside. Items that are there stay as they are: what was removed stays removed. With
 * `isPerson` held ones are accepted, and sections that are not in use yet begin.
 */
function addFacts(record: ModelRecord, given: readonly GivenFact[], nowMs: number, isPerson: boolean): ModelRecord {
  const sections = new Set(given.map(({ fact }) => sectionOfFact(fact)));
  const missing = isPerson ? [...sections].filter((s) => !record.sections.some(({ section }) => section === s)) : [];
  const all = [...record.sections, ...missing.map((section) => newSection(section, nowMs))];
  const changed = all.map((section) => {
    const own = given.filter(({ fact }) => sectionOfFact(fact) === section.section);
    return own.length === 0 ? section : addTo(section, own, isPerson);
  });
  const isSame = changed.length === record.sections.length && changed.every((s, i) => s === record.sections[i]);
  return isSame ? record : { ...record, sections: changed };
}

/** How many items one record has that another has not. */
export function addedCount(before: ModelRecord, after: ModelRecord): number {
  const known = new Set(before.sections.flatMap(({ items }) => Object.keys(items)));
  return after.sections.flatMap(({ items }) => Object.keys(items)).filter((id) => !known.has(id)).length;
}

/** What static analysis may say: which unchanged programs run, and which ports are listened on. */
function isStaticFact({ kind }: Fact): boolean {
  return kind.case === "listen" || (kind.case === "process" && kind.value.contentState === ContentState.UNCHANGED);
}

/**
 * Adds what the analysis found to the given sections. Where a section is in force already it waits for a person: by then
 * the container may have changed what was looked at.
 */
export function withAnalysis(record: ModelRecord, sections: readonly Section[], nowMs: number): ModelRecord {
  const given = (record.analysis?.items ?? []).flatMap(({ fact: json, reason, contentSha256 }): GivenFact[] => {
    const fact = fromJson(FactSchema, json, { ignoreUnknownFields: true });
    const section = record.sections.find((each) => each.section === sectionOfFact(fact));
    if (!section || !sections.includes(section.section)) return [];
    const isOpen = isLearning(section.life.state) || section.life.state === LearningState.DRY_RUN;
    const status = isOpen ? ItemStatus.ALLOWED : ItemStatus.HELD;
    const item = { ...givenItem(fact, nowMs, { source: ItemSource.STATIC, reason }), status };
    return [{ fact, item: contentSha256 === "" ? item : { ...item, contentSha256 } }];
  });
  return given.length === 0 ? record : addFacts(record, given, nowMs, false);
}

/** Takes in what was found out about the image without running it. The first analysis of a digest stays. */
export function applyAnalysis(record: ModelRecord, analysis: StaticAnalysis, nowMs: number): ModelRecord {
  if (record.analysis) return record;
  const items = analysis.items.flatMap(({ fact, reason, contentSha256 }) =>
    fact && isStaticFact(fact) ? [{ fact: toJson(FactSchema, fact), reason, contentSha256 }] : [],
  );
  const libraries = analysis.libraries.map(({ path, sha256, neededBy }) => ({ path, sha256, neededBy }));
  const found = { analyzeMs: nowMs, items, unresolved: analysis.unresolved, files: analysis.files, libraries };
  return withAnalysis(
    { ...record, analysis: found },
    record.sections.map(({ section }) => section),
    nowMs,
  );
}

/** Takes in a person's items. */
export function importItems(record: ModelRecord, given: readonly GivenFact[], nowMs: number): ModelRecord {
  return addFacts(record, given, nowMs, true);
}

/** Carries allowed items of another model over, each marked until it is seen. */
export function inheritItems(record: ModelRecord, from: ModelRecord, fromKey: string, nowMs: number): ModelRecord {
  const reason = `carried over from ${fromKey}`;
  const given = from.sections.flatMap(({ items }) =>
    Object.values(items)
      .filter(({ status }) => status === ItemStatus.ALLOWED)
      .map((item): GivenFact => {
        const carried = { ...item, source: ItemSource.INHERITED, reason, firstSeenMs: nowMs, lastSeenMs: nowMs };
        return { fact: factOf(item), item: { ...carried, count: 0, unitCount: 0, seenIn: [], firstContainerId: "" } };
      }),
  );
  return { ...addFacts(record, given, nowMs, false), inheritedFrom: fromKey };
}

/** Archives now: containers of nodes that are lost are forgotten; with others running it is refused. */
export function archiveNow(
  record: ModelRecord,
  isConnected: (nodeId: string) => boolean,
  durations: LifecycleDurations,
  nowMs: number,
): ModelRecord {
  const running = Object.entries(record.containers).filter(([, nodeId]) => isConnected(nodeId));
  if (running.length > 0) {
    const shown = running.slice(0, 5).map(([id]) => `\`${id}\``);
    const message = `${running.length} containers run it (${shown.join(", ")}): stop them first`;
    throw invalidRequest([{ field: "model_key", message }]);
  }
  return archiveOrReturn({ ...record, containers: {} }, durations, nowMs);
}

function withItem(record: ModelRecord, itemId: string, change: (section: SectionRecord) => SectionRecord): ModelRecord {
  const at = record.sections.findIndex(({ items }) => items[itemId] !== undefined);
  if (at < 0) throw invalidRequest([{ field: "item_id", message: `there is no item \`${itemId}\`` }]);
  return { ...record, sections: record.sections.map((section, i) => (i === at ? change(section) : section)) };
}

function requireFamily(section: SectionRecord, itemId: string): void {
  const { folded, status } = section.items[itemId] as ItemRecord;
  if (folded && status === ItemStatus.ALLOWED) return;
  throw invalidRequest([{ field: "item_id", message: `item \`${itemId}\` is no family that is in force` }]);
}

/** Takes a family apart. */
export function unfold(record: ModelRecord, itemId: string, nowMs: number): ModelRecord {
  return withItem(record, itemId, (section) => {
    requireFamily(section, itemId);
    return { ...section, items: unfoldItems(section.items, itemId, nowMs) };
  });
}

/** Confirms a family: it stays as it is, and never becomes part of a wider one. */
export function pin(record: ModelRecord, itemId: string): ModelRecord {
  return withItem(record, itemId, (section) => {
    requireFamily(section, itemId);
    const item = { ...(section.items[itemId] as ItemRecord), isPinned: true };
    return { ...section, items: { ...section.items, [itemId]: item } };
  });
}

/** Accepts everything that waits for a person. */
export function acceptHeld(record: ModelRecord): ModelRecord {
  return changeItems(record, (item) =>
    item.status === ItemStatus.HELD
      ? { ...item, status: ItemStatus.ALLOWED, source: ItemSource.PERSON, reason: "accepted by a person" }
      : item,
  );
}

/** Changes items: all, or those with the given ids, each of which must be there. */
export function changeItems(
  record: ModelRecord,
  change: (item: ItemRecord) => ItemRecord,
  ids?: readonly string[],
): ModelRecord {
  const known = new Set(record.sections.flatMap(({ items }) => Object.keys(items)));
  const missing = (ids ?? []).filter((id) => !known.has(id));
  if (missing.length > 0)
    throw invalidRequest(missing.map((id) => ({ field: "item_id", message: `there is no item \`${id}\`` })));
  const wanted = ids && new Set(ids);
  const sections = record.sections.map((section) => {
    const entries = Object.entries(section.items);
    const changed = entries.map(([id, item]) => [id, !wanted || wanted.has(id) ? change(item) : item] as const);
    return changed.every(([id, item]) => item === section.items[id])
      ? section
      : { ...section, items: Object.fromEntries(changed) };
  });
  return sections.every((section, i) => section === record.sections[i]) ? record : { ...record, sections };
}

/** Allowed items that only one of two models has. */
export function diffItems(
  base: ModelRecord,
  other: ModelRecord,
): { readonly added: readonly string[]; readonly removed: readonly string[]; readonly commonCount: number } {
  const allowed = (record: ModelRecord) =>
    new Set(
      record.sections.flatMap(({ items }) =>
        Object.entries(items).flatMap(([id, { status }]) => (status === ItemStatus.ALLOWED ? [id] : [])),
      ),
    );
  const before = allowed(base);
  const after = allowed(other);
  const added = [...after].filter((id) => !before.has(id));
  return { added, removed: [...before].filter((id) => !after.has(id)), commonCount: after.size - added.length };
}
