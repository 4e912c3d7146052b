import { create } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { expect, test } from "vitest";
import { factId } from "#core/model/fact.ts";
import { DEFAULT_DURATIONS } from "#core/model/lifecycle.ts";
import { ContentState, Section } from "#gen/gabion/event/v1/event_pb.ts";
import {
  ContainerPresenceSchema,
  FactSchema,
  ItemStatus,
  LearningState,
  ObservedFactSchema,
  PresenceSpanSchema,
  SeenUnitSchema,
} from "#gen/gabion/model/v1/model_pb.ts";
import { applyBatch, isPolicyChange, type ModelBatch } from "./learn.ts";
import { countTime, dueMs, newSection } from "./life.ts";
import type { ModelRecord } from "./record.ts";

const HOUR = 3_600_000;
const key = `m-${"0".repeat(32)}`;

function record(state: LearningState = LearningState.LEARNING): ModelRecord {
  const section = newSection(Section.PROCESS, 0);
  return {
    cluster: "",
    namespace: "",
    workload: "",
    imageDigest: "",
    imageName: "",
    digestSource: 0,
    sections: [{ ...section, life: { ...section.life, state } }],
    containers: { "n1/c1": "n1" },
    archivedMs: null,
    countedMs: 0,
    createMs: 0,
    updateMs: 0,
    transitions: [],
    applied: {},
    policyRevision: 1,
    policy: "",
  };
}

function fact(path: string) {
  return create(FactSchema, {
    kind: { case: "process", value: { path, name: path, contentState: ContentState.UNCHANGED } },
  });
}

function batch(part: Partial<ModelBatch>): ModelBatch {
  return { facts: [], seenUnits: [], spans: [], containers: [], ...part };
}

/** Spans of at most ten minutes each: a longer one is not believed. */
function spans(ms: number) {
  const whole = Math.floor(ms / 600_000);
  return [...Array.from({ length: whole }, () => span(600_000)), span(ms - whole * 600_000)];
}

function span(ms: number, lost = 0n) {
  return create(PresenceSpanSchema, {
    containerId: "c1",
    modelKey: key,
    section: Section.PROCESS,
    attached: durationFromMs(ms),
    lostEventCount: lost,
  });
}

let sequence = 0;
function apply(to: ModelRecord, part: Partial<ModelBatch>, nowMs = 0, number = ++sequence): ModelRecord {
  return applyBatch(to, batch(part), { nodeId: "n1", runId: "r", sequence: number }, DEFAULT_DURATIONS, nowMs);
}

const observed = (path: string, more = {}) =>
  create(ObservedFactSchema, { modelKey: key, fact: fact(path), containerId: "c1", ...more });

test("a batch that is sent again changes nothing", () => {
  const unit = create(SeenUnitSchema, {
    containerId: "c1",
    section: Section.PROCESS,
    itemIds: [factId(fact("/a"))],
    counts: [3],
    isFirst: [true],
    isFirstPart: true,
  });
  const once = apply(record(), { facts: [observed("/a")], seenUnits: [unit], spans: [span(1_000)] }, 0, 100);
  expect(apply(once, { facts: [observed("/a")], seenUnits: [unit], spans: [span(1_000)] }, 0, 100)).toBe(once);
  expect(Object.values(once.sections[0]?.items ?? {})[0]).toMatchObject({ count: 3, unitCount: 1 });
});

test("observed time comes from spans without loss; the loss is kept", () => {
  const after = apply(record(), { spans: [...spans(HOUR - 1), span(HOUR, 5n)] });
  expect(after.sections[0]).toMatchObject({
    lostEventCount: 5,
    life: { state: LearningState.LEARNING, observedMs: HOUR - 1 },
  });
  expect(apply(after, { spans: [span(1)] }).sections[0]?.life.state).toBe(LearningState.DRY_RUN);
});

test("time spent learning is not time of the dry run", () => {
  const learned = countTime(apply(record(), { spans: spans(HOUR) }, 30 * HOUR), DEFAULT_DURATIONS, 30 * HOUR);
  expect(dueMs({ ...learned, countedMs: 30 * HOUR }, DEFAULT_DURATIONS)).toBeGreaterThan(30 * HOUR);
});

test("an active model learns nothing", () => {
  expect(apply(record(LearningState.ACTIVE), { facts: [observed("/a")] }).sections[0]?.items).toEqual({});
});

test("a deviation in the dry run is learned and ends the dry run", () => {
  const after = apply(record(LearningState.DRY_RUN), { facts: [observed("/a", { isDeviation: true })] });
  expect(after.sections[0]?.life.state).toBe(LearningState.EXTENDED_LEARNING);
  expect(Object.keys(after.sections[0]?.items ?? {})).toHaveLength(1);
});

test("an item that came with a detection is held", () => {
  const after = apply(record(), { facts: [observed("/a", { isHeld: true, detector: "drift" })] });
  expect(Object.values(after.sections[0]?.items ?? {})[0]).toMatchObject({
    status: ItemStatus.HELD,
    reason: "seen together with drift",
  });
});

test("the last container's end archives the model; a start within a day brings it back with the time it had left", () => {
  const presence = (isRunning: boolean) =>
    create(ContainerPresenceSchema, { isRunning, container: { containerId: "c1", nodeId: "n1" } });
  const dry = { ...record(LearningState.DRY_RUN), countedMs: 0 };
  const archived = apply(countTime(dry, DEFAULT_DURATIONS, 10 * HOUR), { containers: [presence(false)] }, 10 * HOUR);
  expect(archived.archivedMs).toBe(10 * HOUR);
  expect(dueMs(archived, DEFAULT_DURATIONS)).toBe(34 * HOUR);
  const back = apply(countTime(archived, DEFAULT_DURATIONS, 30 * HOUR), { containers: [presence(true)] }, 30 * HOUR);
  expect(back.archivedMs).toBeNull();
  expect(dueMs(back, DEFAULT_DURATIONS)).toBe(44 * HOUR);
});

test("a span of hours is not believed, and a container that the node does not run teaches nothing", () => {
  expect(apply(record(), { spans: [span(24 * HOUR)] }).sections[0]?.life.observedMs).toBe(600_000);
  const foreign = [observed("/evil", { containerId: "c2" })];
  expect(apply(record(), { facts: foreign }).sections[0]?.items).toEqual({});
});

test("counts are no policy change, items and states are", () => {
  const before = record();
  expect(isPolicyChange(before, apply(before, { spans: [span(1)] }))).toBe(false);
  expect(isPolicyChange(before, apply(before, { facts: [observed("/a")] }))).toBe(true);
  expect(isPolicyChange(before, apply(before, { spans: spans(HOUR) }))).toBe(true);
});

test("a container that starts a thousand times a minute changes neither state nor the time that is left", () => {
  const presence = (id: number, isRunning: boolean) =>
    create(ContainerPresenceSchema, { isRunning, container: { containerId: `c${id}`, nodeId: "n1" } });
  let model: ModelRecord = { ...record(LearningState.DRY_RUN), containers: {} };
  for (let i = 0; i < 1_000; i += 1) {
    const now = i * 60;
    model = apply(countTime(model, DEFAULT_DURATIONS, now), { containers: [presence(i, true)] }, now);
    model = apply(countTime(model, DEFAULT_DURATIONS, now + 30), { containers: [presence(i, false)] }, now + 30);
  }
  const [section] = model.sections;
  expect(section?.life.state).toBe(LearningState.DRY_RUN);
  // It ran for half of each 60 ms.
  expect(section?.life.elapsedMs).toBe(1_000 * 30);
  expect(model.containerTotal).toBe(1_000);
  expect(model.lastContainers?.length).toBeLessThanOrEqual(64);
});

test("a clock that steps back counts no time twice, and one that steps forward no more than what is left", () => {
  const dry = record(LearningState.DRY_RUN);
  const later = countTime(dry, DEFAULT_DURATIONS, 10 * HOUR);
  const back = countTime(later, DEFAULT_DURATIONS, 2 * HOUR);
  expect(countTime(back, DEFAULT_DURATIONS, 10 * HOUR).sections[0]?.life.elapsedMs).toBe(10 * HOUR);
  const far = countTime(back, DEFAULT_DURATIONS, 1_000 * HOUR);
  expect(far.sections[0]?.life).toMatchObject({ state: LearningState.ACTIVE, elapsedMs: 0 });
});

test("learning goes on while a section is plainly unfinished, where a setting asks for it, and not for ever", () => {
  const durations = { ...DEFAULT_DURATIONS, extension: { maxNewPerDay: 1, maxMs: 3 * HOUR } };
  const from = (n: number) => ({ nodeId: "n1", runId: "x", sequence: n });
  let model = record();
  let state: LearningState | undefined;
  for (let hour = 1; hour <= 3; hour += 1) {
    model = applyBatch(model, batch({ spans: spans(HOUR) }), from(hour), durations, 0);
    state = model.sections[0]?.life.state;
    if (hour === 1) expect(state).toBe(LearningState.LEARNING);
  }
  model = applyBatch(model, batch({ spans: spans(1) }), from(9), durations, 0);
  expect(model.sections[0]?.life.state).toBe(LearningState.DRY_RUN);
});
