import { create } from "@bufbuild/protobuf";
import { ContentState } from "#gen/gabion/event/v1/event_pb.ts";
import type { LearningState, ProcessFact } from "#gen/gabion/model/v1/model_pb.ts";
import {
  type Decision,
  DecisionSchema,
  Effect,
  ExplanationSchema,
  Outcome,
  Reason,
} from "#gen/gabion/policy/v1/policy_pb.ts";
import type { Detector, ProcessSection } from "#gen/gabion/rule/v1/rule_pb.ts";
import { compilePattern } from "../matching/pattern.ts";
import { contentIdentity } from "../model/fact.ts";
import { nearestProcesses } from "./nearest.ts";
import type { ProcessEvent } from "./process-event.ts";
import { type CompiledProcessList, compileProcessList } from "./process-list.ts";
import { DEFAULT_TREATMENT, type EventClass, type TreatmentSettings, treat } from "./treatment.ts";

/** What the process part of a resultant policy is made of. */
export interface ProcessPolicyInput {
  /** Section of the rule that applies; undefined where no rule does: then nothing is enforced. */
  readonly section: ProcessSection | undefined;
  readonly hasRule: boolean;
  /** Allowed items of the model. */
  readonly items: readonly ProcessFact[];
  readonly state: LearningState;
  readonly settings?: TreatmentSettings;
}

/** The resultant policy for processes: model + allowed − denied, ready to be asked. */
export interface CompiledProcessPolicy extends ProcessPolicyInput {
  readonly effect: Effect;
  readonly driftEffect: Effect;
  readonly denied: CompiledProcessList;
  readonly allowed: CompiledProcessList;
  readonly isDriftException: (event: ProcessEvent) => boolean;
  /** Content identities of the model by path and name. */
  readonly contents: ReadonlyMap<string, ReadonlySet<string>>;
}

function itemKey(path: string, name: string): string {
  return `${path}\0${name}`;
}

function indexItems(items: readonly ProcessFact[]): Map<string, Set<string>> {
  const contents = new Map<string, Set<string>>();
  for (const item of items) {
    const key = itemKey(item.path, item.name);
    const known = contents.get(key) ?? new Set();
    contents.set(key, known.add(contentIdentity(item)));
  }
  return contents;
}

/** Effect of a detector: its own, or that of the section where it says nothing; off where it is not listed. */
function detectorEffect(detector: Detector | undefined, section: Effect): Effect {
  if (detector === undefined || section === Effect.DISABLE) return Effect.DISABLE;
  return detector.effect === Effect.UNSPECIFIED ? section : detector.effect;
}

/** Compiles the resultant policy. A section that the rule leaves out is disabled. */
export function compileProcessPolicy(input: ProcessPolicyInput): CompiledProcessPolicy {
  const effect = input.section?.effect ?? Effect.DISABLE;
  const drift = input.section?.detectors["drift"];
  const exceptions = (drift?.exceptions ?? []).map((exception) => compilePattern(exception));
  return {
    ...input,
    effect,
    driftEffect: detectorEffect(drift, effect),
    denied: compileProcessList(input.section?.denied ?? []),
    allowed: compileProcessList(input.section?.allowed ?? []),
    isDriftException: (event) =>
      exceptions.some((pattern) => pattern.matches(event.path) || pattern.matches(event.invokedPath)),
    contents: indexItems(input.items),
  };
}

interface Finding {
  readonly outcome: Outcome;
  readonly eventClass: EventClass;
  readonly effect: Effect;
  readonly reason: Reason;
  readonly matched: string;
  readonly message: string;
  readonly detector?: string;
}

function shown(event: ProcessEvent): string {
  return event.name === "" || event.path.endsWith(`/${event.name}`)
    ? `\`${event.path}\``
    : `\`${event.path}\` as \`${event.name}\``;
}

function findDenial(policy: CompiledProcessPolicy, event: ProcessEvent): Finding | undefined {
  const match = policy.denied.find(event);
  return match === undefined
    ? undefined
    : {
        outcome: Outcome.DENIAL,
        eventClass: "denial",
        effect: policy.effect,
        reason: Reason.DENIED_LIST,
        matched: match.entry.process,
        message: `${shown(event)} is denied by the rule's entry \`${match.entry.process}\``,
      };
}

/** A binary that is changed or not in the image. Content that could not be read is not accused. */
function findDrift(policy: CompiledProcessPolicy, event: ProcessEvent): Finding | undefined {
  const isDrift = event.contentState === ContentState.CHANGED || event.contentState === ContentState.FOREIGN;
  if (!isDrift || policy.driftEffect === Effect.DISABLE || policy.isDriftException(event)) return undefined;
  const what =
    event.contentState === ContentState.CHANGED ? "was changed since the image was made" : "is not in the image";
  return {
    outcome: Outcome.DETECTION,
    eventClass: "other_detection",
    effect: policy.driftEffect,
    reason: Reason.DETECTOR,
    matched: "drift",
    detector: "drift",
    message: `${shown(event)} ${what}`,
  };
}

function findAllowed(policy: CompiledProcessPolicy, event: ProcessEvent): Finding | undefined {
  const match = policy.allowed.find(event);
  return match === undefined
    ? undefined
    : {
        outcome: Outcome.ALLOW,
        eventClass: "allowed",
        effect: policy.effect,
        reason: Reason.ALLOWED_LIST,
        matched: match.entry.process,
        message: `${shown(event)} is allowed by the rule's entry \`${match.entry.process}\``,
      };
}

function findInModel(policy: CompiledProcessPolicy, event: ProcessEvent): Finding {
  const known = policy.contents.get(itemKey(event.path, event.name));
  const content = contentIdentity(event);
  const base = { effect: policy.effect, matched: "" };
  if (known === undefined) {
    const message = `${shown(event)} is not in the model`;
    return { ...base, outcome: Outcome.DEVIATION, eventClass: "deviation", reason: Reason.NOT_IN_MODEL, message };
  }
  const matched = `${event.path} as ${event.name}`;
  if (content !== "unknown" && known.has(content)) {
    const message = `${shown(event)} is in the model`;
    return { ...base, matched, outcome: Outcome.ALLOW, eventClass: "allowed", reason: Reason.MODEL, message };
  }
  const outcome = content === "unknown" ? Outcome.UNDECIDED : Outcome.DEVIATION;
  const what = content === "unknown" ? "its content could not be read" : "with other content than learned";
  const message = `${shown(event)} is in the model, but ${what}`;
  return { ...base, matched, outcome, eventClass: "deviation", reason: Reason.CONTENT_CHANGED, message };
}

function disabled(reason: Reason, message: string): Finding {
  return { outcome: Outcome.ALLOW, eventClass: "allowed", effect: Effect.DISABLE, reason, matched: "", message };
}

const CONSIDERATIONS: readonly (readonly [
  string,
  (p: CompiledProcessPolicy, e: ProcessEvent) => Finding | undefined,
])[] = [
  ["denied list", findDenial],
  ["drift detector", findDrift],
  ["allowed list", findAllowed],
  ["model", findInModel],
];

function find(policy: CompiledProcessPolicy, event: ProcessEvent): { finding: Finding; passedOver: string[] } {
  const passedOver: string[] = [];
  for (const [name, consider] of CONSIDERATIONS) {
    const finding = consider(policy, event);
    if (finding) return { finding, passedOver };
    passedOver.push(`${name}: names it not`);
  }
  throw new Error("the model always answers");
}

/** An effect that what could not be told apart may have at most: nobody is stopped on a guess. */
function capUndecided(finding: Finding): Finding {
  const isStronger = finding.effect === Effect.PREVENT || finding.effect === Effect.BLOCK;
  return finding.outcome === Outcome.UNDECIDED && isStronger ? { ...finding, effect: Effect.ALERT } : finding;
}

function findWithin(policy: CompiledProcessPolicy, event: ProcessEvent): { finding: Finding; passedOver: string[] } {
  if (!policy.hasRule)
    return { finding: disabled(Reason.NO_RULE, "no rule applies to this container"), passedOver: [] };
  if (policy.effect === Effect.DISABLE) {
    return { finding: disabled(Reason.SECTION_DISABLED, "the rule disables the process section"), passedOver: [] };
  }
  return find(policy, event);
}

/**
 * What policy says of an exec: denied list, then detectors, then allowed list, then the model. Undecided where path and
 * name are in the model and the content could not be read; that is audited and never stops anything.
 */
export function evaluateProcess(policy: CompiledProcessPolicy, event: ProcessEvent): Decision {
  const { finding, passedOver } = findWithin(policy, event);
  const { eventClass, effect } = capUndecided(finding);
  const isUnknown = contentIdentity(event) === "unknown";
  const treatment = treat(eventClass, policy.state, effect, policy.settings ?? DEFAULT_TREATMENT);
  return create(DecisionSchema, {
    outcome: finding.outcome,
    effectAsked: finding.effect,
    effectApplied: treatment.effect,
    isLearned: treatment.isLearned && !isUnknown,
    isHeld: treatment.isHeld || (treatment.isLearned && isUnknown),
    isAudited: treatment.isAudited,
    isDryRun: treatment.isDryRun,
    detector: finding.detector ?? "",
    explanation: create(ExplanationSchema, {
      reason: finding.reason,
      matched: finding.matched,
      message: finding.message,
      passedOver,
      nearest: treatment.isAudited ? nearestProcesses(policy.items, event) : [],
    }),
  });
}
