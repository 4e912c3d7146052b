import { create } from "@bufbuild/protobuf";
import type { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import {
  type Decision,
  DecisionSchema,
  Effect,
  ExplanationSchema,
  type NearestItem,
  Outcome,
  Reason,
} from "#gen/gabion/policy/v1/policy_pb.ts";
import type { Detector } from "#gen/gabion/rule/v1/rule_pb.ts";
import { compilePattern } from "../matching/pattern.ts";
import { DEFAULT_TREATMENT, type EventClass, type TreatmentSettings, treat } from "./treatment.ts";

/** What one consideration says of an event, before the state of the model is taken into account. */
export interface Finding {
  readonly outcome: Outcome;
  readonly eventClass: EventClass;
  readonly effect: Effect;
  readonly reason: Reason;
  /** The entry, detector or item that decided; empty where none did. */
  readonly matched: string;
  readonly message: string;
  readonly detector?: string;
}

/** What all sections of a resultant policy have. */
export interface SectionPolicy {
  readonly hasRule: boolean;
  readonly effect: Effect;
  readonly state: LearningState;
  readonly settings?: TreatmentSettings;
}

/** A detector of a rule, ready to be asked. */
export interface CompiledDetector {
  readonly effect: Effect;
  /** True if an exception of the detector names one of the texts. */
  readonly excepts: (...texts: readonly string[]) => boolean;
}

const OFF: CompiledDetector = { effect: Effect.DISABLE, excepts: () => false };

/** Effect of a detector: its own, or that of the section where it says nothing; off where it is not listed. */
export function compileDetector(detector: Detector | undefined, section: Effect): CompiledDetector {
  if (detector === undefined || section === Effect.DISABLE) return OFF;
  const effect = detector.effect === Effect.UNSPECIFIED ? section : detector.effect;
  const patterns = detector.exceptions.map((exception) => compilePattern(exception));
  return { effect, excepts: (...texts) => patterns.some(({ matches }) => texts.some(matches)) };
}

export function denial(effect: Effect, matched: string, shown: string): Finding {
  const message = `${shown} is denied by the rule's entry \`${matched}\``;
  return { outcome: Outcome.DENIAL, eventClass: "denial", effect, reason: Reason.DENIED_LIST, matched, message };
}

export function allowed(effect: Effect, matched: string, shown: string): Finding {
  const message = `${shown} is allowed by the rule's entry \`${matched}\``;
  return { outcome: Outcome.ALLOW, eventClass: "allowed", effect, reason: Reason.ALLOWED_LIST, matched, message };
}

export function inModel(effect: Effect, matched: string, shown: string): Finding {
  const message = `${shown} is in the model`;
  return { outcome: Outcome.ALLOW, eventClass: "allowed", effect, reason: Reason.MODEL, matched, message };
}

export function deviation(effect: Effect, message: string): Finding {
  return {
    outcome: Outcome.DEVIATION,
    eventClass: "deviation",
    effect,
    reason: Reason.NOT_IN_MODEL,
    matched: "",
    message,
  };
}

/** A detector fired. Threats are audited in every state of the model and never learned. */
export function detection(effect: Effect, detector: string, isThreat: boolean, message: string): Finding {
  const eventClass = isThreat ? "threat_detection" : "other_detection";
  return {
    outcome: Outcome.DETECTION,
    eventClass,
    effect,
    reason: Reason.DETECTOR,
    matched: detector,
    detector,
    message,
  };
}

/** What a match comes to, where there is one. */
export function whereNamed(match: string | undefined, make: (match: string) => Finding): Finding | undefined {
  return match === undefined ? undefined : make(match);
}

/** Outside the policy's reach: nothing is judged. */
export function unjudged(reason: Reason, message: string): Finding {
  return { outcome: Outcome.ALLOW, eventClass: "allowed", effect: Effect.DISABLE, reason, matched: "", message };
}

export type Consideration<Event> = readonly [name: string, consider: (event: Event) => Finding | undefined];

/** Tries considerations in their order; the first that has something to say decides. The last one always has. */
export function findFirst<Event>(
  considerations: readonly Consideration<Event>[],
  event: Event,
): { finding: Finding; passedOver: string[] } {
  const passedOver: string[] = [];
  for (const [name, consider] of considerations) {
    const finding = consider(event);
    if (finding) return { finding, passedOver };
    passedOver.push(`${name}: names it not`);
  }
  throw new Error("the model always answers");
}

/** As `findFirst`, unless no rule applies or the rule switches the section off. */
export function judge<Event>(
  policy: SectionPolicy,
  section: string,
  considerations: readonly Consideration<Event>[],
  event: Event,
): { finding: Finding; passedOver: string[] } {
  if (!policy.hasRule) {
    return { finding: unjudged(Reason.NO_RULE, "no rule applies to this container"), passedOver: [] };
  }
  if (policy.effect === Effect.DISABLE) {
    return { finding: unjudged(Reason.SECTION_DISABLED, `the rule disables the ${section} section`), passedOver: [] };
  }
  return findFirst(considerations, event);
}

/** The decision that a finding comes to in the state of the model. */
export function toDecision(
  policy: SectionPolicy,
  { finding, passedOver }: { finding: Finding; passedOver: readonly string[] },
  nearest: () => NearestItem[] = () => [],
): Decision {
  const { state, settings = DEFAULT_TREATMENT } = policy;
  const treatment = treat(finding.eventClass, state, finding.effect, settings);
  return create(DecisionSchema, {
    outcome: finding.outcome,
    effectAsked: finding.effect,
    effectApplied: treatment.effect,
    isLearned: treatment.isLearned,
    isHeld: treatment.isHeld,
    isAudited: treatment.isAudited,
    isDryRun: treatment.isDryRun,
    detector: finding.detector ?? "",
    explanation: create(ExplanationSchema, {
      reason: finding.reason,
      matched: finding.matched,
      message: finding.message,
      passedOver: [...passedOver],
      nearest: treatment.isAudited ? nearest() : [],
    }),
  });
}
