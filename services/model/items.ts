import { fromJson, type JsonValue, toJson } from "@bufbuild/protobuf";
import { factId, PARENTS_MAX } from "#core/model/fact.ts";
import { type Fold, type Foldable, findFold, isFoldable } from "#core/model/generalise.ts";
import { compileFamily, isFamily, memberFact, memberText } from "#core/model/item-pattern.ts";
import { type Fact, FactSchema, ItemSource, ItemStatus } from "#gen/gabion/model/v1/model_pb.ts";
import { FOLDED_MAX, ITEMS_MAX, type ItemRecord, SEEN_IN_MAX, type SectionRecord } from "./record.ts";

type Items = SectionRecord["items"];

/** Stored facts as messages: each is read once for as long as its record is kept in memory. */
const parsed = new WeakMap<object, Fact>();

/** The fact of a stored item. */
export function factOf({ fact: stored }: ItemRecord): Fact {
  const known = typeof stored === "object" && stored !== null ? parsed.get(stored) : undefined;
  if (known) return known;
  const fact = fromJson(FactSchema, stored, { ignoreUnknownFields: true });
  if (typeof stored === "object" && stored !== null) parsed.set(stored, fact);
  return fact;
}

const sizes = new WeakMap<object, number>();

function textSize(fact: JsonValue): number {
  if (typeof fact !== "object" || fact === null) return 0;
  const known = sizes.get(fact);
  if (known !== undefined) return known;
  const size = JSON.stringify(fact).length;
  sizes.set(fact, size);
  return size;
}

/** What an item takes in a document, by its texts: they are what a container can make long. */
function sizeOf({ fact, reason, parentPaths, folded = [] }: ItemRecord): number {
  const texts = [reason, ...parentPaths, ...folded];
  return textSize(fact) + texts.reduce((sum, text) => sum + text.length, 0);
}

/** Texts of all items of a section together, so that a model always fits into one message. */
const SECTION_MAX_BYTES = 1024 * 1024;

/** Items of a section while several things happen to them: copied once, and counted once. */
export class ItemsDraft {
  #items: Record<string, ItemRecord>;
  #isOwn = false;
  #count: number;
  #bytes: number;

  constructor(items: Items) {
    this.#items = items;
    const all = Object.values(items);
    this.#count = all.length;
    this.#bytes = all.reduce((sum, item) => sum + sizeOf(item), 0);
  }

  get items(): Items {
    return this.#items;
  }

  /** True if the section takes no more items. */
  get isFull(): boolean {
    return this.#count >= ITEMS_MAX || this.#bytes >= SECTION_MAX_BYTES;
  }

  put(id: string, item: ItemRecord): void {
    if (!this.#isOwn) this.#items = { ...this.#items };
    this.#isOwn = true;
    const before = this.#items[id];
    if (before === undefined) this.#count += 1;
    this.#bytes += sizeOf(item) - (before === undefined ? 0 : sizeOf(before));
    this.#items[id] = item;
  }

  /** Adds a new item, and folds what it completes. */
  add(id: string, item: ItemRecord): void {
    this.put(id, item);
    const folded = foldItems(this.#items, id);
    if (folded === this.#items) return;
    this.#items = folded;
    this.#count = Object.keys(folded).length;
    this.#bytes = Object.values(folded).reduce((sum, item) => sum + sizeOf(item), 0);
  }
}

/** A new item that a person or a file brought, not a container. */
export function givenItem(fact: Fact, nowMs: number, given: Pick<ItemRecord, "source" | "reason">): ItemRecord {
  return {
    fact: toJson(FactSchema, fact),
    status: ItemStatus.ALLOWED,
    firstSeenMs: nowMs,
    lastSeenMs: nowMs,
    count: 0,
    unitCount: 0,
    firstContainerId: "",
    parentPaths: [],
    ...given,
  };
}

/** A longer path of a parent is not kept: 16 of them for each item would fill a model. */
const PARENT_MAX = 1_024;

/** An item that has another parent, as far as there is room. */
export function withParent(item: ItemRecord, parent: string): ItemRecord {
  const isLong = parent.length > PARENT_MAX;
  const isNew = parent !== "" && !isLong && !item.parentPaths.includes(parent) && item.parentPaths.length < PARENTS_MAX;
  return isNew ? { ...item, parentPaths: [...item.parentPaths, parent] } : item;
}

/** An item that was seen in a container. What was inherited is the model's own from then on. */
export function seenIn(item: ItemRecord, containerId: string): ItemRecord {
  const before = item.seenIn ?? [];
  const isNew = containerId !== "" && before.length < SEEN_IN_MAX && !before.includes(containerId);
  const seen = isNew ? { ...item, seenIn: [...before, containerId] } : item;
  if (item.source !== ItemSource.INHERITED) return seen;
  return { ...seen, source: ItemSource.BEHAVIOR, reason: `${item.reason}, then seen in a running container` };
}

/** The family of a section that a fact belongs to, by id; undefined where it stands for itself. */
export function familyOf(items: Items, fact: Fact): string | undefined {
  if (!isFoldable(fact) || isFamily(fact)) return undefined;
  const found = Object.entries(items).find(([, item]) => {
    if (item.status !== ItemStatus.ALLOWED) return false;
    const family = factOf(item);
    return family.kind.case === fact.kind.case && isFamily(family) && compileFamily(family)(fact);
  });
  return found?.[0];
}

/** Longer members are counted and not kept. */
const MEMBER_MAX = 512;

function mergeMembers(fold: Fold, items: Items): ItemRecord {
  const members = fold.members.flatMap((id) => items[id] ?? []);
  const first = members.toSorted((a, b) => a.firstSeenMs - b.firstSeenMs)[0] as ItemRecord;
  const sum = (of: (item: ItemRecord) => number) => members.reduce((total, item) => total + of(item), 0);
  const texts = members.flatMap((item) => item.folded ?? [memberText(factOf(item))]);
  return {
    fact: toJson(FactSchema, fold.family),
    source: first.source,
    status: ItemStatus.ALLOWED,
    firstSeenMs: first.firstSeenMs,
    lastSeenMs: Math.max(...members.map((item) => item.lastSeenMs)),
    count: sum((item) => item.count),
    unitCount: sum((item) => item.unitCount),
    firstContainerId: first.firstContainerId,
    reason: fold.reason,
    parentPaths: [],
    seenIn: [...new Set(members.flatMap((item) => item.seenIn ?? []))].slice(0, SEEN_IN_MAX),
    folded: texts.filter((text) => text.length <= MEMBER_MAX).slice(0, FOLDED_MAX),
    foldedCount: sum((item) => item.foldedCount ?? 1),
  };
}

/** True if a family would let in what was removed, or what waits for a person. */
export function coversRefused(items: Items, family: Fact): boolean {
  if (!isFamily(family)) return false;
  const covers = compileFamily(family);
  return Object.values(items).some((item) => item.status !== ItemStatus.ALLOWED && covers(factOf(item)));
}

/** The family that a new item completes, with its members gone, or the items as they are. What a person removed stays out. */
export function foldItems(items: Items, id: string): Items {
  const own = items[id];
  if (own?.status !== ItemStatus.ALLOWED) return items;
  const fact = factOf(own);
  if (!isFoldable(fact)) return items;
  const sameKind = Object.entries(items).filter(([, item]) => factOf(item).kind.case === fact.kind.case);
  const foldable = sameKind.flatMap(([each, item]): Foldable[] =>
    item.status === ItemStatus.ALLOWED && item.isPinned !== true ? [{ id: each, fact: factOf(item) }] : [],
  );
  const fold = findFold({ id, fact }, foldable);
  if (!fold || items[factId(fold.family)] !== undefined) return items;
  if (coversRefused(items, fold.family)) return items;
  const gone = new Set(fold.members);
  const rest = Object.entries(items).filter(([each]) => !gone.has(each));
  return { ...Object.fromEntries(rest), [factId(fold.family)]: mergeMembers(fold, items) };
}

/** Takes a family apart: its members come back as far as they were kept, and the family stays away. */
export function unfoldItems(items: Items, id: string, nowMs: number): Items {
  const family = items[id];
  if (!family?.folded) return items;
  const fact = factOf(family);
  const reason = `was part of the family \`${memberText(fact)}\``;
  const members = family.folded.map((text) => {
    const member = memberFact(fact, text);
    return [factId(member), givenItem(member, nowMs, { source: family.source, reason })] as const;
  });
  const removed = {
    ...family,
    status: ItemStatus.REMOVED,
    reason: "taken apart by a person",
    folded: [],
    isPinned: false,
  };
  return { ...Object.fromEntries(members), ...items, [id]: removed };
}
