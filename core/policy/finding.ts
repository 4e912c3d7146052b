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
import { compileTextIndex } from "../matching/text-index.ts";
import { DEFAULT_TREATMENT, type EventClass, type Treatment, type TreatmentSettings, treat } from "./treatment.ts";

/** What one consideration says of an event, before the state of the model is taken into account. */
export interface Finding {
  readonly outcome: Outcome;
  readonly eventClass: EventClass;
  readonly effect: Effect;
  /** What the rule asks for, where that is more than may be done. */
  readonly effectAsked?: Effect;
  readonly reason: Reason;
  /** The entry, detector or item that decided; empty where none did. */
  readonly matched: string;
  /** One sentence for a person, made where somebody reads it: most events are allowed and told to nobody. */
  readonly message: () => string;
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
  if (detector.exceptions.length === 0) return { effect, excepts: OFF.excepts };
  const exceptions = compileTextIndex(detector.exceptions);
  return { effect, excepts: (...texts) => texts.some((text) => exceptions.find(text) >= 0) };
}

export function denial(effect: Effect, matched: string, shown: () => string): Finding {
  const message = () => `${shown()} is denied by the rule's entry \`${matched}\``;
  return { outcome: Outcome.DENIAL, eventClass: "denial", effect, reason: Reason.DENIED_LIST, matched, message };
}

export function allowed(effect: Effect, matched: string, shown: () => string): Finding {
  const message = () => `${shown()} is allowed by the rule's entry \`${matched}\``;
  return { outcome: Outcome.ALLOW, eventClass: "allowed", effect, reason: Reason.ALLOWED_LIST, matched, message };
}

export function inModel(effect: Effect, matched: string, shown: () => string): Finding {
  const message = () => `${shown()} is in the model`;
  return { outcome: Outcome.ALLOW, eventClass: "allowed", effect, reason: Reason.MODEL, matched, message };
}

export function deviation(effect: Effect, message: () => string): Finding {
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
    message: () => message,
  };
}

/** What a match comes to, where there is one. */
export function whereNamed(match: string | undefined, make: (match: string) => Finding): Finding | undefined {
  return match === undefined ? undefined : make(match);
}

/** Outside the policy's reach: nothing is judged. */
export function unjudged(reason: Reason, message: string): Finding {
  return {
    outcome: Outcome.ALLOW,
    eventClass: "allowed",
    effect: Effect.DISABLE,
    reason,
    matched: "",
    message: () => message,
  };
}

/** One part of a section that may have something to say of an event. */
export type Consideration<Policy, Event> = readonly [
  name: string,
  consider: (policy: Policy, event: Event) => Finding | undefined,
];

/** What a section comes to for an event: the finding, and what is done about it in the state of the model. */
export interface Ruling {
  readonly finding: Finding;
  readonly treatment: Treatment;
  /** Effect that the rule asks for, where what is done is capped. */
  readonly effectAsked: Effect;
  /** What was tried before, and had nothing to say. */
  readonly passedOver: () => string[];
  /** Closest allowed objects, best first. */
  readonly nearest: () => NearestItem[];
  /** True where a custom rule asks for an incident. */
  readonly isIncident?: boolean;
}

/** The ruling that a finding comes to. */
export function rulingOf(
  { state, settings = DEFAULT_TREATMENT }: SectionPolicy,
  finding: Finding,
  passedOver: () => string[] = () => [],
  nearest: () => NearestItem[] = () => [],
): Ruling {
  const treatment = treat(finding.eventClass, state, finding.effect, settings);
  return { finding, treatment, effectAsked: finding.effectAsked ?? finding.effect, passedOver, nearest };
}

/**
 * Tries considerations in their order; the first that has something to say decides. The last one always has. Where no
 * rule applies, or the rule switches the section off, nothing is judged.
 */
export function rule<Policy extends SectionPolicy, Event>(
  policy: Policy,
  section: string,
  considerations: readonly Consideration<Policy, Event>[],
  event: Event,
  nearest?: () => NearestItem[],
): Ruling {
  if (!policy.hasRule) return rulingOf(policy, unjudged(Reason.NO_RULE, "no rule applies to this container"));
  if (policy.effect === Effect.DISABLE) {
    return rulingOf(policy, unjudged(Reason.SECTION_DISABLED, `the rule disables the ${section} section`));
  }
  for (let tried = 0; tried < considerations.length; tried += 1) {
    const finding = considerations[tried]?.[1](policy, event);
    if (!finding) continue;
    const passedOver = () => considerations.slice(0, tried).map(([name]) => `${name}: names it not`);
    return rulingOf(policy, finding, passedOver, nearest);
  }
  throw new Error("the model always answers");
}

/** A ruling as it is told. */
export function toDecision({
  finding,
  treatment,
  effectAsked,
  passedOver,
  nearest,
  isIncident = false,
}: Ruling): Decision {
  return create(DecisionSchema, {
    outcome: finding.outcome,
    effectAsked,
    effectApplied: treatment.effect,
    isLearned: treatment.isLearned,
    isHeld: treatment.isHeld,
    isAudited: treatment.isAudited,
    isDryRun: treatment.isDryRun,
    isIncident,
    detector: finding.detector ?? "",
    explanation: create(ExplanationSchema, {
      reason: finding.reason,
      matched: finding.matched,
      message: finding.message(),
      passedOver: passedOver(),
      nearest: treatment.isAudited ? nearest() : [],
    }),
  });
}
