import { create } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromMs } from "@bufbuild/protobuf/wkt";
import { UNIT_SECONDS } from "#core/model/completeness.ts";
import { factId, sectionOfFact } from "#core/model/fact.ts";
import { compileFamilies, type Families } from "#core/model/item-pattern.ts";
import type { Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { Enforced } from "#gen/gabion/fleet/v1/fleet_pb.ts";
import {
  type ContainerPresence,
  ContainerPresenceSchema,
  type Fact,
  type JournalNote,
  type ModelPolicy,
  type ObservedFact,
  ObservedFactSchema,
  type PresenceSpan,
  PresenceSpanSchema,
  type SeenUnit,
  SeenUnitSchema,
} from "#gen/gabion/model/v1/model_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";

/** One thing for model-service. */
export type Observation =
  | { readonly kind: "fact"; readonly value: ObservedFact }
  | { readonly kind: "seen"; readonly value: SeenUnit }
  | { readonly kind: "span"; readonly value: PresenceSpan }
  | { readonly kind: "presence"; readonly value: ContainerPresence }
  | { readonly kind: "journal"; readonly value: JournalNote }
  | { readonly kind: "enforced"; readonly value: Enforced };

interface Unit {
  readonly index: bigint;
  isReported: boolean;
  readonly seen: Set<string>;
  counts: Map<string, number>;
}

/** Facts that one section of a model may have sent; more is a flood, which the model's own limit cuts anyway. */
const SENT_MAX = 20_000;
/** uint32, as reports have it. */
const COUNT_MAX = 0xffff_ffff;
/** Distinct items that one unit counts. */
const UNIT_ITEMS_MAX = 10_000;

/** What is to be sent once: the fact, and each parent that it is seen with. */
function idsOf(fact: Fact): string[] {
  const id = factId(fact);
  if (fact.kind.case !== "process") return [id];
  const { parentPath, parentPaths } = fact.kind.value;
  const parents = new Set(parentPath === "" ? parentPaths : [...parentPaths, parentPath]);
  return [id, ...[...parents].map((parent) => `${id} parent ${parent}`)];
}

export interface ObservedNote {
  readonly isDeviation: boolean;
  readonly isHeld: boolean;
  readonly detector: string;
}

/** Turns what containers do into what model-service learns from: each fact sent once, then only counted. */
export class Learner {
  readonly #clock: Clock;
  readonly #send: (observation: Observation) => void;
  /** By model and section: a flood in one section leaves the others room. */
  readonly #known = new Map<string, Map<Section, Set<string>>>();
  readonly #families = new Map<string, Families>();
  readonly #units = new Map<WatchedContainer, Map<Section, Unit>>();

  constructor(clock: Clock, send: (observation: Observation) => void) {
    this.#clock = clock;
    this.#send = send;
  }

  /** The model changed: what it has need not be sent again, what it has not may be. */
  takeModel(model: ModelPolicy): void {
    this.#families.set(model.modelKey, compileFamilies(model.sections.flatMap(({ facts }) => facts)));
    const known = model.sections.map(({ section, facts }) => [section, new Set(facts.flatMap(idsOf))] as const);
    this.#known.set(model.modelKey, new Map(known));
  }

  /** Id by which a fact counts: that of its family, where the model has one for it. */
  idOf(container: WatchedContainer, fact: Fact): string {
    return factId(this.#families.get(container.message.modelKey)?.of(fact) ?? fact);
  }

  /** A fact that a learning section takes in. */
  observe(container: WatchedContainer, fact: Fact, note: ObservedNote): void {
    const { modelKey } = container.message;
    // What waits for a person stands for itself, whatever family it may belong to.
    const family = note.isHeld ? undefined : this.#families.get(modelKey)?.of(fact);
    if (family) {
      this.count(container, sectionOfFact(fact), factId(family));
      return;
    }
    const id = factId(fact);
    this.count(container, sectionOfFact(fact), id);
    const known = this.#knownOf(modelKey, sectionOfFact(fact));
    const ids = idsOf(fact);
    const isKnown = ids.every((each) => known.has(each));
    if (isKnown && !note.isDeviation) return;
    const key = `${id} deviation`;
    if ((isKnown && known.has(key)) || known.size >= SENT_MAX) return;
    for (const each of note.isDeviation ? [...ids, key] : ids) known.add(each);
    const seenTime = timestampFromMs(this.#clock.now());
    const value = create(ObservedFactSchema, { modelKey, fact, containerId: container.id, seenTime, ...note });
    this.#send({ kind: "fact", value });
  }

  presence(container: WatchedContainer, isRunning: boolean): void {
    this.#send({
      kind: "presence",
      value: create(ContainerPresenceSchema, { container: container.message, isRunning }),
    });
  }

  /** Reports the time since the last span of a section and what was seen in it. */
  flush(container: WatchedContainer, section: Section): void {
    const now = this.#clock.now();
    const span = container.span(section);
    const attachedMs = now - span.beginMs;
    const base = { modelKey: container.message.modelKey, containerId: container.id, section };
    this.#report(container, section, this.#unitOf(container, section));
    if (span.beginMs === 0 || attachedMs <= 0) return;
    const value = { ...base, attached: durationFromMs(attachedMs), lostEventCount: span.lost };
    span.lost = 0n;
    span.beginMs = now;
    this.#send({ kind: "span", value: create(PresenceSpanSchema, value) });
  }

  /** Drops what is kept for a container; with `isLastOfModel` what is known of its model too. */
  forget(container: WatchedContainer, isLastOfModel: boolean): void {
    this.#units.delete(container);
    if (!isLastOfModel) return;
    this.#known.delete(container.message.modelKey);
    this.#families.delete(container.message.modelKey);
  }

  #knownOf(modelKey: string, section: Section): Set<string> {
    const ofModel = this.#known.get(modelKey) ?? new Map<Section, Set<string>>();
    const known = ofModel.get(section) ?? new Set();
    this.#known.set(modelKey, ofModel.set(section, known));
    return known;
  }

  /** The unit that it is now. What the one before has not reported yet leaves when the next begins. */
  #unitOf(container: WatchedContainer, section: Section): Unit {
    const index = BigInt(Math.floor(this.#clock.now() / 1_000 / UNIT_SECONDS));
    const units = this.#units.get(container) ?? new Map<Section, Unit>();
    this.#units.set(container, units);
    const unit = units.get(section);
    if (unit?.index === index) return unit;
    if (unit) this.#report(container, section, unit);
    const fresh: Unit = { index, isReported: false, seen: new Set(), counts: new Map() };
    units.set(section, fresh);
    return fresh;
  }

  /** A fact that was observed before is seen again, once or more often. */
  count(container: WatchedContainer, section: Section, id: string, times = 1): void {
    const { counts } = this.#unitOf(container, section);
    if (counts.size >= UNIT_ITEMS_MAX && !counts.has(id)) return;
    counts.set(id, Math.min(COUNT_MAX, (counts.get(id) ?? 0) + times));
  }

  /**
   * Facts of an active section that the kernel knew by itself were seen again. They count, and are no unit of
   * completeness: what is new in such a section is not learned, so its units would make the model look more complete than
   * it is.
   */
  countKnown(container: WatchedContainer, section: Section, counts: ReadonlyMap<string, number>): void {
    const itemIds = [...counts.keys()];
    const value = create(SeenUnitSchema, {
      modelKey: container.message.modelKey,
      containerId: container.id,
      section,
      unitIndex: BigInt(Math.floor(this.#clock.now() / 1_000 / UNIT_SECONDS)),
      itemIds,
      counts: [...counts.values()],
      isFirst: itemIds.map(() => false),
      isFirstPart: false,
    });
    this.#send({ kind: "seen", value });
  }

  #report(container: WatchedContainer, section: Section, unit: Unit): void {
    if (unit.isReported && unit.counts.size === 0) return;
    const itemIds = [...unit.counts.keys()];
    const value = create(SeenUnitSchema, {
      modelKey: container.message.modelKey,
      containerId: container.id,
      section,
      unitIndex: unit.index,
      itemIds,
      counts: [...unit.counts.values()],
      isFirst: itemIds.map((id) => !unit.seen.has(id)),
      isFirstPart: !unit.isReported,
    });
    for (const id of itemIds) unit.seen.add(id);
    unit.counts = new Map();
    unit.isReported = true;
    this.#send({ kind: "seen", value });
  }
}
