import { ContentState } from "#gen/gabion/event/v1/event_pb.ts";
import type { LearningState, ProcessFact } from "#gen/gabion/model/v1/model_pb.ts";
import { type Decision, Effect, Outcome, Reason } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { ProcessSection } from "#gen/gabion/rule/v1/rule_pb.ts";
import { ATTACK_TOOLS, MINER_ARGUMENTS, MINERS, MULTI_CALL, SHELLS } from "../detect/programs.ts";
import { badText, type Intel } from "../intel/intel-set.ts";
import { contentIdentity, PARENTS_MAX } from "../model/fact.ts";
import { isLearning } from "../model/lifecycle.ts";
import {
  allowed,
  type CompiledDetector,
  type Consideration,
  compileDetector,
  denial,
  detection,
  deviation,
  type Finding,
  inModel,
  type Ruling,
  rule,
  rulingOf,
  toDecision,
  unjudged,
} from "./finding.ts";
import { nearestProcesses } from "./nearest.ts";
import { baseName, type ProcessEvent } from "./process-event.ts";
import { type CompiledProcessList, compileProcessList } from "./process-list.ts";
import type { TreatmentSettings } from "./treatment.ts";

/** What the process part of a resultant policy is made of. */
export interface ProcessPolicyInput {
  /** Section of the rule that applies; undefined where no rule does: then nothing is enforced. */
  readonly section: ProcessSection | undefined;
  readonly hasRule: boolean;
  /** Allowed items of the model. */
  readonly items: readonly ProcessFact[];
  readonly intel?: Intel;
  /** SHA-256 of the image's executables by path. */
  readonly imageHashes?: ReadonlyMap<string, string>;
  readonly state: LearningState;
  readonly settings?: TreatmentSettings;
}

/** Detectors of the process section that look at an exec. */
export const PROCESS_DETECTORS = [
  "reverse_shell",
  "crypto_miner",
  "lateral_movement",
  "setuid",
  "drift",
  "parent_check",
  "intel",
] as const;
export type ProcessDetector = (typeof PROCESS_DETECTORS)[number];

/** The resultant policy for processes: model + allowed − denied, ready to be asked. */
export interface CompiledProcessPolicy extends ProcessPolicyInput {
  readonly effect: Effect;
  readonly denied: CompiledProcessList;
  readonly allowed: CompiledProcessList;
  readonly detectors: Readonly<Record<ProcessDetector, CompiledDetector>>;
  /** Content identities of the model by path and name. */
  readonly contents: ReadonlyMap<string, ReadonlySet<string>>;
  /** Parents in the model by path and name; without any where none was recorded. */
  readonly parents: ReadonlyMap<string, ReadonlySet<string>>;
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

function indexParents(items: readonly ProcessFact[]): Map<string, Set<string>> {
  const parents = new Map<string, Set<string>>();
  for (const item of items.filter(({ parentPaths }) => parentPaths.length > 0)) {
    const key = itemKey(item.path, item.name);
    parents.set(key, new Set([...(parents.get(key) ?? []), ...item.parentPaths]));
  }
  return parents;
}

/** Compiles the resultant policy. A section that the rule leaves out is disabled. */
export function compileProcessPolicy(input: ProcessPolicyInput): CompiledProcessPolicy {
  const effect = input.section?.effect ?? Effect.DISABLE;
  const compiled = PROCESS_DETECTORS.map(
    (name) => [name, compileDetector(input.section?.detectors[name], effect)] as const,
  );
  return {
    ...input,
    effect,
    detectors: Object.fromEntries(compiled) as Record<ProcessDetector, CompiledDetector>,
    denied: compileProcessList(input.section?.denied ?? []),
    allowed: compileProcessList(input.section?.allowed ?? []),
    contents: indexItems(input.items),
    parents: indexParents(input.items),
  };
}

function shown(event: ProcessEvent): string {
  return event.name === "" || event.path.endsWith(`/${event.name}`)
    ? `\`${event.path}\``
    : `\`${event.path}\` as \`${event.name}\``;
}

function findDenial(policy: CompiledProcessPolicy, event: ProcessEvent): Finding | undefined {
  const match = policy.denied.find(event);
  return match && denial(policy.effect, match.entry.process, () => shown(event));
}

/** A binary that is changed or not in the image. Content that could not be read is not accused. */
function driftMessage(event: ProcessEvent): string | undefined {
  if (event.contentState === ContentState.CHANGED) return `${shown(event)} was changed since the image was made`;
  return event.contentState === ContentState.FOREIGN ? `${shown(event)} is not in the image` : undefined;
}

/** A program with many names is what it was called by: the server of a busybox is no shell. */
function namesOf(event: ProcessEvent): string[] {
  const isCalled = event.name !== "" && MULTI_CALL.has(baseName(event.path));
  if (isCalled || event.path === event.invokedPath) {
    const own = isCalled ? event.name : baseName(event.path);
    return own === event.name ? [own.toLowerCase()] : [own.toLowerCase(), event.name.toLowerCase()];
  }
  return [baseName(event.path), event.name, baseName(event.invokedPath)].map((name) => name.toLowerCase());
}

function reverseShellMessage(event: ProcessEvent, names: readonly string[] = namesOf(event)): string | undefined {
  if (event.stream === "" || !names.some((name) => SHELLS.has(name))) return undefined;
  return `${shown(event)} takes its commands from a connection (${event.stream})`;
}

function minerMessage(event: ProcessEvent, names: readonly string[]): string | undefined {
  if (names.some((name) => MINERS.has(name))) return `${shown(event)} has the name of a mining program`;
  const argument = event.args.find((arg) => MINER_ARGUMENTS.some((pattern) => pattern.test(arg)));
  return argument && `${shown(event)} has an argument of mining programs, \`${argument.slice(0, 100)}\``;
}

function attackToolMessage(event: ProcessEvent, names: readonly string[]): string | undefined {
  const name = names.find((known) => Object.hasOwn(ATTACK_TOOLS, known));
  return name && `${shown(event)} is a tool that ${ATTACK_TOOLS[name]}`;
}

/** Parents that the model saw start a program; undefined where it saw none. */
export function knownParents(
  { parents }: Pick<CompiledProcessPolicy, "parents">,
  { path, name }: { readonly path: string; readonly name: string },
): ReadonlySet<string> | undefined {
  return parents.get(itemKey(path, name));
}

/** Only a known program with known parents is asked who started it; the first process has no parent of its own. */
function parentMessage(event: ProcessEvent, _: readonly string[], policy: CompiledProcessPolicy): string | undefined {
  const known = knownParents(policy, event);
  const [parent] = event.parents;
  // A list that is full may have left somebody out, and while the model learns there is no list yet.
  const isOpen = isLearning(policy.state) || (known?.size ?? 0) >= PARENTS_MAX;
  if (known === undefined || parent === undefined || isOpen || known.has(parent)) return undefined;
  return `${shown(event)} was started by \`${parent}\`, which never started it in the model`;
}

/** Intelligence comes after the allowed list, which exists to correct it. */
function findBadFile(policy: CompiledProcessPolicy, event: ProcessEvent): Finding | undefined {
  const { effect, excepts } = policy.detectors.intel;
  const bad = policy.intel?.byHash.get(event.sha256);
  if (bad === undefined || effect === Effect.DISABLE || excepts(event.path, event.sha256)) return undefined;
  return detection(effect, "intel", true, `${shown(event)} has the content of a bad file, ${badText(bad)}`);
}

/** What each detector says of an event; a threat is never learned. */
const CHECKS: readonly {
  readonly name: Exclude<ProcessDetector, "intel">;
  readonly isThreat: boolean;
  readonly message: (
    event: ProcessEvent,
    names: readonly string[],
    policy: CompiledProcessPolicy,
  ) => string | undefined;
}[] = [
  { name: "reverse_shell", isThreat: true, message: reverseShellMessage },
  { name: "crypto_miner", isThreat: true, message: minerMessage },
  { name: "lateral_movement", isThreat: true, message: attackToolMessage },
  {
    name: "setuid",
    isThreat: false,
    message: (event) => (event.isSetuid ? `${shown(event)} takes another user's rights (set-user-ID)` : undefined),
  },
  { name: "drift", isThreat: false, message: driftMessage },
  { name: "parent_check", isThreat: false, message: parentMessage },
];

function findDetection(policy: CompiledProcessPolicy, event: ProcessEvent): Finding | undefined {
  const names = namesOf(event);
  for (const { name, isThreat, message } of CHECKS) {
    const { effect, excepts } = policy.detectors[name];
    if (effect === Effect.DISABLE) continue;
    const text = message(event, names, policy);
    if (text === undefined || excepts(event.path, event.invokedPath, event.name)) continue;
    return detection(effect, name, isThreat, text);
  }
  return undefined;
}

function findAllowed(policy: CompiledProcessPolicy, event: ProcessEvent): Finding | undefined {
  const match = policy.allowed.find(event);
  return match && allowed(policy.effect, match.entry.process, () => shown(event));
}

function findInModel(policy: CompiledProcessPolicy, event: ProcessEvent): Finding {
  const known = policy.contents.get(itemKey(event.path, event.name));
  const content = contentIdentity(event);
  if (known === undefined) return deviation(policy.effect, () => `${shown(event)} is not in the model`);
  const matched = `${event.path} as ${event.name}`;
  if (content !== "unknown" && known.has(content)) return inModel(policy.effect, matched, () => shown(event));
  const outcome = content === "unknown" ? Outcome.UNDECIDED : Outcome.DEVIATION;
  const what = content === "unknown" ? "its content could not be read" : "with other content than learned";
  const message = () => `${shown(event)} is in the model, but ${what}`;
  return { ...deviation(policy.effect, message), outcome, reason: Reason.CONTENT_CHANGED, matched };
}

/** An effect that what could not be told apart may have at most: nobody is stopped on a guess. */
function capUndecided(finding: Finding): Finding {
  const isStronger = finding.effect === Effect.PREVENT || finding.effect === Effect.BLOCK;
  return finding.outcome === Outcome.UNDECIDED && isStronger ? { ...finding, effect: Effect.ALERT } : finding;
}

/** A standard stream of a program that runs already became a connection: only whether it is a shell is asked. */
export function ruleRedirect(policy: CompiledProcessPolicy, event: ProcessEvent): Ruling {
  const { effect, excepts } = policy.detectors.reverse_shell;
  const message = reverseShellMessage(event);
  const isSilent = message === undefined || effect === Effect.DISABLE || excepts(event.path, event.name);
  const finding = isSilent
    ? unjudged(Reason.MODEL, "not a shell that takes its commands from a connection")
    : detection(effect, "reverse_shell", true, message);
  return rulingOf(policy, finding);
}

/** What policy says of a standard stream that became a connection. */
export function evaluateRedirect(policy: CompiledProcessPolicy, event: ProcessEvent): Decision {
  return toDecision(ruleRedirect(policy, event));
}

const CONSIDERATIONS: readonly Consideration<CompiledProcessPolicy, ProcessEvent>[] = [
  ["denied list", findDenial],
  ["detectors", findDetection],
  ["allowed list", findAllowed],
  ["intelligence", findBadFile],
  ["model", findInModel],
];

/**
 * The ruling on an exec: denied list, then detectors, then allowed list, then the model. Undecided where path and name are
 * in the model and the content could not be read; that is audited and never stops anything.
 */
export function ruleProcess(policy: CompiledProcessPolicy, event: ProcessEvent): Ruling {
  const ruling = rule(policy, "process", CONSIDERATIONS, event, () => nearestProcesses(policy.items, event));
  if (contentIdentity(event) !== "unknown") return ruling;
  const { treatment } = rulingOf(policy, capUndecided(ruling.finding));
  // What could not be read waits for a person instead of being learned.
  const isHeld = treatment.isHeld || treatment.isLearned;
  return { ...ruling, treatment: { ...treatment, isHeld, isLearned: false } };
}

/** What policy says of an exec. */
export function evaluateProcess(policy: CompiledProcessPolicy, event: ProcessEvent): Decision {
  return toDecision(ruleProcess(policy, event));
}
