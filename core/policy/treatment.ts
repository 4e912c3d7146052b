import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { isLearning } from "../model/lifecycle.ts";

/** Rows of the table "what happens to an event": how an event stands to policy. */
export type EventClass = "deviation" | "allowed" | "denial" | "threat_detection" | "other_detection";

/** Settings that change the table. */
export interface TreatmentSettings {
  /** Lets effects above alert through during a dry run. */
  readonly liftsDryRunCap: boolean;
  /** Audits detections that are not threats while learning, at alert. */
  readonly auditsDetectionsWhileLearning: boolean;
}

export const DEFAULT_TREATMENT: TreatmentSettings = { liftsDryRunCap: false, auditsDetectionsWhileLearning: false };

/** What is done about an event in one state of the model. */
export interface Treatment {
  readonly isLearned: boolean;
  readonly isHeld: boolean;
  readonly isAudited: boolean;
  readonly isDryRun: boolean;
  readonly effect: Effect;
}

const NOTHING: Treatment = {
  isLearned: false,
  isHeld: false,
  isAudited: false,
  isDryRun: false,
  effect: Effect.DISABLE,
};

function inLearning(eventClass: EventClass, effect: Effect, settings: TreatmentSettings): Treatment {
  switch (eventClass) {
    case "deviation":
    case "allowed":
      return { ...NOTHING, isLearned: true };
    case "denial":
      return { ...NOTHING, isAudited: true, effect };
    case "threat_detection":
      return { ...NOTHING, isAudited: true, isHeld: true, effect };
    case "other_detection": {
      const isAudited = settings.auditsDetectionsWhileLearning;
      return { ...NOTHING, isHeld: true, isAudited, effect: isAudited ? Effect.ALERT : Effect.DISABLE };
    }
  }
}

function inDryRun(eventClass: EventClass, effect: Effect, settings: TreatmentSettings): Treatment {
  const capped = settings.liftsDryRunCap ? effect : Effect.ALERT;
  switch (eventClass) {
    case "deviation":
      return { ...NOTHING, isLearned: true, isAudited: true, isDryRun: true, effect: capped };
    case "allowed":
      return { ...NOTHING, isLearned: true };
    case "denial":
      return { ...NOTHING, isAudited: true, effect };
    case "threat_detection":
      return { ...NOTHING, isAudited: true, isHeld: true, effect };
    case "other_detection":
      return { ...NOTHING, isAudited: true, isDryRun: true, effect: capped };
  }
}

/**
 * The table of the specification: event × state → what is done. A denial acts in every state, because a person said
 * so; a threat acts in every state and its item waits for a person; a deviation teaches while learning, teaches and
 * alerts in the dry run, and acts once the model is active.
 */
export function treat(
  eventClass: EventClass,
  state: LearningState,
  effect: Effect,
  settings: TreatmentSettings = DEFAULT_TREATMENT,
): Treatment {
  if (effect === Effect.DISABLE) return NOTHING;
  if (isLearning(state)) return inLearning(eventClass, effect, settings);
  if (state === LearningState.DRY_RUN) return inDryRun(eventClass, effect, settings);
  return eventClass === "allowed" ? NOTHING : { ...NOTHING, isAudited: true, effect };
}
