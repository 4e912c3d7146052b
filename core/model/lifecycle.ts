import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";

/** Durations of the lifecycle in milliseconds. The defaults are the seeds': 1 h, 24 h, 24 h, 1 h, 24 h. */
export interface LifecycleDurations {
  /** Cumulative observed container time of `learning`. */
  readonly learningMs: number;
  /** Wall-clock time of `dry-run`. */
  readonly dryRunMs: number;
  /** Wall-clock time of `extended-learning`. */
  readonly extendedLearningMs: number;
  /** Cumulative observed container time of `relearning`. */
  readonly relearningMs: number;
  /** Wall-clock time that an archived model is kept. */
  readonly archiveMs: number;
  /** Keeps a section learning beyond its time while it is plainly unfinished. Without it time alone decides. */
  readonly extension?: LearningExtension;
}

/** When learning goes on after its time. It never ends before it. */
export interface LearningExtension {
  /** Expected new behaviours a day, upper end of the 95 % interval, above which a section is unfinished. */
  readonly maxNewPerDay: number;
  /** Observed container time after which learning ends all the same. */
  readonly maxMs: number;
}

const HOUR_MS = 3_600_000;

export const DEFAULT_DURATIONS: LifecycleDurations = {
  learningMs: HOUR_MS,
  dryRunMs: 24 * HOUR_MS,
  extendedLearningMs: 24 * HOUR_MS,
  relearningMs: HOUR_MS,
  archiveMs: 24 * HOUR_MS,
};

/**
 * Where one section of a model stands. Time of two kinds moves it: `observedMs` is container time that was watched
 * without loss, `elapsedMs` is wall-clock time of the control plane, which stands still while the model is archived.
 */
export interface SectionLife {
  readonly state: LearningState;
  readonly observedMs: number;
  readonly elapsedMs: number;
  readonly hadDryRun: boolean;
}

/** Something that may move a section. */
export type LifeEvent =
  | { readonly kind: "observed"; readonly ms: number; readonly isUnfinished?: boolean }
  | { readonly kind: "elapsed"; readonly ms: number }
  | { readonly kind: "deviation" }
  | { readonly kind: "relearn" }
  | { readonly kind: "start_manual" }
  | { readonly kind: "stop_manual" };

/** What became of an event: the life after it and, where the state changed, why. */
export interface LifeStep {
  readonly life: SectionLife;
  readonly cause?: string;
}

/** A section that has just been seen for the first time. */
export function newLife(): SectionLife {
  return { state: LearningState.LEARNING, observedMs: 0, elapsedMs: 0, hadDryRun: false };
}

function enter(life: SectionLife, state: LearningState, cause: string): LifeStep {
  const hadDryRun = life.hadDryRun || state === LearningState.DRY_RUN;
  return { life: { state, observedMs: 0, elapsedMs: 0, hadDryRun }, cause };
}

function observe(life: SectionLife, ms: number, isUnfinished: boolean, durations: LifecycleDurations): LifeStep {
  const observed = { ...life, observedMs: life.observedMs + ms };
  if (isUnfinished) return { life: observed };
  if (life.state === LearningState.LEARNING && observed.observedMs >= durations.learningMs) {
    const cause = "observed container time reached the learning duration";
    return life.hadDryRun
      ? enter(observed, LearningState.ACTIVE, cause)
      : enter(observed, LearningState.DRY_RUN, cause);
  }
  if (life.state === LearningState.RELEARNING && observed.observedMs >= durations.relearningMs) {
    return enter(observed, LearningState.ACTIVE, "observed container time reached the relearning duration");
  }
  return { life: observed };
}

function elapse(life: SectionLife, ms: number, durations: LifecycleDurations): LifeStep {
  const elapsed = { ...life, elapsedMs: life.elapsedMs + ms };
  if (life.state === LearningState.DRY_RUN && elapsed.elapsedMs >= durations.dryRunMs) {
    return enter(elapsed, LearningState.ACTIVE, "the dry run ended without a deviation");
  }
  if (life.state === LearningState.EXTENDED_LEARNING && elapsed.elapsedMs >= durations.extendedLearningMs) {
    return enter(elapsed, LearningState.ACTIVE, "extended learning ended");
  }
  return { life: elapsed };
}

/**
 * Moves a section by one event:
 * - `learning` → `dry-run` after the learning duration of observed time, later where it is plainly unfinished and a
 *   setting asks for that;
 * - `dry-run` → `active` after its wall-clock duration, → `extended-learning` at a deviation;
 * - `extended-learning` → `active` after its wall-clock duration; there is no second dry run;
 * - any → `manual-learning` and back to `active` when a person says so;
 * - any but manual → `relearning` on request, → `active` after the relearning duration of observed time.
 * What does not apply leaves the life as it is.
 */
export function stepLife(life: SectionLife, event: LifeEvent, durations: LifecycleDurations): LifeStep {
  switch (event.kind) {
    case "observed":
      return observe(life, event.ms, event.isUnfinished ?? false, durations);
    case "elapsed":
      return elapse(life, event.ms, durations);
    case "deviation":
      return life.state === LearningState.DRY_RUN
        ? enter(life, LearningState.EXTENDED_LEARNING, "a deviation was seen in the dry run")
        : { life };
    case "relearn":
      return life.state === LearningState.MANUAL_LEARNING
        ? { life }
        : enter(life, LearningState.RELEARNING, "a person asked for relearning");
    case "start_manual":
      return enter(life, LearningState.MANUAL_LEARNING, "a person started manual learning");
    case "stop_manual":
      return life.state === LearningState.MANUAL_LEARNING
        ? enter(life, LearningState.ACTIVE, "a person stopped manual learning")
        : { life };
  }
}

/** True while new behaviour is taken in without an audit. */
export function isLearning(state: LearningState): boolean {
  return (
    state === LearningState.LEARNING ||
    state === LearningState.EXTENDED_LEARNING ||
    state === LearningState.MANUAL_LEARNING ||
    state === LearningState.RELEARNING
  );
}
