import { type LifecycleDurations, type LifeEvent, newLife, stepLife } from "#core/model/lifecycle.ts";
import type { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { type ModelRecord, type SectionRecord, TRANSITIONS_MAX } from "./record.ts";

/** A date that never comes. */
const NEVER_MS = 8_000_000_000_000;

/** A section that begins to learn. */
export function newSection(section: Section, nowMs: number): SectionRecord {
  return {
    section,
    life: newLife(),
    enterMs: nowMs,
    items: {},
    unitCount: 0,
    lostEventCount: 0,
    lastNewItemMs: 0,
    isFull: false,
  };
}

/** Moves one section by an event and notes the transition, if it made one. */
export function stepSection(
  record: ModelRecord,
  section: Section,
  event: LifeEvent,
  durations: LifecycleDurations,
  nowMs: number,
): ModelRecord {
  const before = record.sections.find((s) => s.section === section);
  if (!before) return record;
  const { life, cause } = stepLife(before.life, event, durations);
  const isMove = cause !== undefined;
  const after = { ...before, life, enterMs: isMove ? nowMs : before.enterMs };
  const sections = record.sections.map((s) => (s === before ? after : s));
  if (!isMove) return { ...record, sections };
  const transition = { timeMs: nowMs, section, from: before.life.state, to: life.state, cause };
  return { ...record, sections, transitions: [...record.transitions, transition].slice(-TRANSITIONS_MAX) };
}

/** Moves all sections of a model by one event. */
export function stepAll(
  record: ModelRecord,
  event: LifeEvent,
  durations: LifecycleDurations,
  nowMs: number,
): ModelRecord {
  return record.sections.reduce((model, { section }) => stepSection(model, section, event, durations, nowMs), record);
}

/** Counts wall-clock time up to now. It stands still while the model is archived. */
export function countTime(record: ModelRecord, durations: LifecycleDurations, nowMs: number): ModelRecord {
  const ms = record.archivedMs === null ? Math.max(0, nowMs - record.countedMs) : 0;
  // Never backwards: two replicas whose clocks differ would count the difference again and again.
  const counted = { ...record, countedMs: Math.max(record.countedMs, nowMs) };
  if (ms === 0) return counted;
  return record.sections.reduce(
    (model, { section }) => stepSection(model, section, { kind: "elapsed", ms }, durations, nowMs),
    counted,
  );
}

function wallClockLeft({ life }: SectionRecord, durations: LifecycleDurations): number {
  if (life.state === LearningState.DRY_RUN) return durations.dryRunMs - life.elapsedMs;
  if (life.state === LearningState.EXTENDED_LEARNING) return durations.extendedLearningMs - life.elapsedMs;
  return NEVER_MS;
}

/** When the clock has something to do for a model: a section's end by wall clock, or removal from the archive. */
export function dueMs(record: ModelRecord, durations: LifecycleDurations): number {
  if (record.archivedMs !== null) return record.archivedMs + durations.archiveMs;
  const left = Math.min(NEVER_MS, ...record.sections.map((section) => wallClockLeft(section, durations)));
  return left >= NEVER_MS ? NEVER_MS : record.countedMs + left;
}

/** Puts a model into the archive or takes it out, according to whether containers run it. */
export function archiveOrReturn(record: ModelRecord, durations: LifecycleDurations, nowMs: number): ModelRecord {
  const isRunning = Object.keys(record.containers).length > 0;
  if (isRunning === (record.archivedMs === null)) return record;
  const counted = countTime(record, durations, nowMs);
  return { ...counted, archivedMs: isRunning ? null : nowMs };
}

/** How far a section is from being in force; the least advanced section gives the model its state. */
const ADVANCE: readonly LearningState[] = [
  LearningState.LEARNING,
  LearningState.RELEARNING,
  LearningState.MANUAL_LEARNING,
  LearningState.EXTENDED_LEARNING,
  LearningState.DRY_RUN,
  LearningState.ACTIVE,
];

export function leastAdvanced(sections: readonly SectionRecord[]): LearningState {
  const states = sections.map(({ life }) => life.state);
  return ADVANCE.find((state) => states.includes(state)) ?? LearningState.LEARNING;
}
