import { create } from "@bufbuild/protobuf";
import { ContentState, Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState, type ProcessFact } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { ProcessEntrySchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { ATTACK_TOOLS, MINERS, SHELLS } from "../detect/programs.ts";
import { isPattern } from "../matching/pattern.ts";
import { isLearning } from "../model/lifecycle.ts";
import type { KernelObject } from "./custom-rules.ts";
import type { CompiledDetector } from "./finding.ts";
import {
  actionOf,
  type KernelAction,
  type KernelDefaults,
  type KernelEntry,
  type RefusedPath,
  SlotBuilder,
  STRENGTH,
} from "./kernel-entry.ts";
import { NOTHING_SPECIAL, type ProcessEvent } from "./process-event.ts";
import { type CompiledEntry, compileProcessList } from "./process-list.ts";
import { type CompiledProcessPolicy, knownParents, PROCESS_DETECTORS } from "./process-policy.ts";

/** Directories of one path that the kernel looks up: DIRECTORIES_MAX in exec_hash.bpf.h. */
const DIRECTORIES_MAX = 16;

type Expressed = { readonly kind: "path" | "name" | "directory"; readonly text: string };

/** How the kernel can match an entry, or undefined where it cannot: stars other than a whole directory's. */
function express({
  entry: { process: text },
}: {
  readonly entry: { readonly process: string };
}): Expressed | undefined {
  if (!isPattern(text)) return { kind: text.includes("/") ? "path" : "name", text };
  const directory = text.slice(0, -1);
  const depth = directory.split("/").length - 1;
  const isDirectory = text.endsWith("/*") && text.startsWith("/") && !isPattern(directory) && depth <= DIRECTORIES_MAX;
  return isDirectory ? { kind: "directory", text: directory } : undefined;
}

function eventOf(item: ProcessFact): ProcessEvent {
  return {
    path: item.path,
    name: item.name,
    invokedPath: item.name.includes("/") ? item.name : item.path,
    contentState: item.contentState,
    sha256: item.sha256,
    parents: [],
    isScript: item.name.includes("/"),
    ...NOTHING_SPECIAL,
  };
}

/** A pattern of names is tried on the link that a program was called by too, which no item tells beforehand. */
function dependsOnLink({ entry }: CompiledEntry): boolean {
  return isPattern(entry.process) && !entry.process.includes("/") && entry.process !== "*";
}

/** Content that intelligence names: found by the agent, which knows the hash. */
function isBad({ intel, imageHashes, detectors }: CompiledProcessPolicy, item: ProcessFact): boolean {
  if (detectors.intel.effect === Effect.DISABLE || !intel || intel.byHash.size === 0) return false;
  const ofImage = imageHashes?.get(item.path);
  return intel.byHash.has(item.sha256) || (ofImage !== undefined && intel.byHash.has(ofImage));
}

/** What an item of the model is in the kernel: allowed, unless the denied list may name it. */
function itemAction(policy: CompiledProcessPolicy, item: ProcessFact, denial: KernelAction): KernelAction {
  const event = eventOf(item);
  const naming = policy.denied.entries.filter((entry) => entry.matchesObject(event));
  if (naming.some((entry) => !entry.hasConditions)) return denial;
  if (naming.length > 0 || policy.denied.entries.some(dependsOnLink)) return "ask";
  // Who started it the kernel does not compare.
  if (policy.detectors.parent_check.effect !== Effect.DISABLE && knownParents(policy, item)) return "ask";
  if (isBad(policy, item)) return "ask";
  const isDrift = item.contentState !== ContentState.UNCHANGED && policy.detectors.drift.effect !== Effect.DISABLE;
  return isDrift ? "ask" : "allow";
}

function addDenied(builder: SlotBuilder, policy: CompiledProcessPolicy, denial: KernelAction): boolean {
  let isWhole = true;
  for (const entry of policy.denied.entries) {
    const expressed = express(entry);
    if (expressed) builder.add({ ...expressed, action: entry.hasConditions ? "ask" : denial });
    else isWhole = false;
  }
  return isWhole;
}

function addAllowed(builder: SlotBuilder, policy: CompiledProcessPolicy, isDeniedWhole: boolean): boolean {
  let isWhole = true;
  for (const entry of policy.allowed.entries) {
    const expressed = express(entry);
    const origin = { kind: "list", section: Section.PROCESS, matched: entry.entry.process } as const;
    if (expressed)
      builder.add({ ...expressed, action: entry.hasConditions || !isDeniedWhole ? "ask" : "allow", origin });
    else isWhole = false;
  }
  return isWhole;
}

/** Objects of custom rules; true where the kernel can match them all by itself. */
function addObjects(builder: SlotBuilder, objects: readonly KernelObject[]): boolean {
  let isWhole = true;
  for (const { text, effect } of objects) {
    const expressed = express({ entry: { process: text } });
    if (expressed) builder.add({ ...expressed, action: actionOf(effect) });
    else isWhole = false;
  }
  return isWhole;
}

function addItems(
  builder: SlotBuilder,
  policy: CompiledProcessPolicy,
  denial: KernelAction,
  objects: readonly KernelObject[],
): void {
  const inexpressible = compileProcessList(
    objects
      .filter(({ text }) => express({ entry: { process: text } }) === undefined)
      .map(({ text: process }) => create(ProcessEntrySchema, { process })),
  );
  const maybeNamed = (item: ProcessFact) =>
    inexpressible.entries.some((entry) => dependsOnLink(entry) || entry.matchesObject(eventOf(item)));
  for (const item of policy.items) {
    const { path, name } = item;
    const content = item.contentState === ContentState.UNCHANGED ? "image" : item.sha256;
    const own = itemAction(policy, item, denial);
    const action = own === "allow" && maybeNamed(item) ? "ask" : own;
    builder.add({ kind: "item", path, name, action: STRENGTH[action] > STRENGTH.ask ? action : "ask" });
    const origin = { kind: "item", fact: { case: "process", value: item } } as const;
    if (content !== "") builder.add({ kind: "item_content", path, name, content, action, origin });
  }
}

/** What the kernel does about files that are not the image's and that nothing names. */
function foreignAction(policy: CompiledProcessPolicy, fallback: KernelAction): KernelAction {
  const { effect } = policy.detectors.drift;
  const driftAction = effect === Effect.DISABLE ? fallback : actionOf(effect);
  const hasExceptions = (policy.section?.detectors["drift"]?.exceptions.length ?? 0) > 0;
  return driftAction === fallback && !hasExceptions ? fallback : "ask";
}

/** Programs that a detector knows by name are asked about, whatever else names them. */
function addTools(builder: SlotBuilder, policy: CompiledProcessPolicy): void {
  const add = (names: Iterable<string>) => {
    for (const text of names) builder.add({ kind: "name", text, action: "ask" });
  };
  if (policy.detectors.lateral_movement.effect !== Effect.DISABLE) add(Object.keys(ATTACK_TOOLS));
  if (policy.detectors.crypto_miner.effect !== Effect.DISABLE) add(MINERS);
  if (policy.detectors.reverse_shell.effect !== Effect.DISABLE)
    for (const text of SHELLS) builder.add({ kind: "shell", text, action: "ask" });
}

/** The process part of a kernel slot. */
export interface ProcessSlot {
  readonly entries: readonly KernelEntry[];
  readonly defaults: Pick<KernelDefaults, "image" | "foreign" | "stream" | "setuid">;
}

function onOff({ effect }: CompiledDetector): KernelAction {
  return effect === Effect.DISABLE ? "allow" : "ask";
}

/**
 * Translates a resultant policy for the kernel. While the model learns or is on trial the kernel decides denials only
 * and asks about everything else. Once it is active, known-good execs are only counted there, and the default acts by
 * itself where nothing in the rule could say otherwise: an allowed entry that the kernel cannot express turns the
 * default into a question.
 */
export function toProcessSlot(policy: CompiledProcessPolicy, objects: readonly KernelObject[] = []): ProcessSlot {
  const builder = new SlotBuilder();
  const isActive = policy.state === LearningState.ACTIVE;
  if (!policy.hasRule || policy.effect === Effect.DISABLE) {
    const action = isLearning(policy.state) && !policy.hasRule ? "ask" : "allow";
    return { entries: [], defaults: { image: action, foreign: action, stream: "allow", setuid: "allow" } };
  }
  const denial = actionOf(policy.effect);
  const detectors = { stream: onOff(policy.detectors.reverse_shell), setuid: onOff(policy.detectors.setuid) };
  const isDeniedWhole = [addDenied(builder, policy, denial), addObjects(builder, objects)].every(Boolean);
  if (!isActive) return { entries: builder.entries(), defaults: { ...detectors, image: "ask", foreign: "ask" } };
  addTools(builder, policy);
  addItems(builder, policy, denial, objects);
  const isAllowedWhole = addAllowed(builder, policy, isDeniedWhole);
  const fallback = policy.effect === Effect.ALERT || !isAllowedWhole ? "ask" : denial;
  const foreign = fallback === "ask" ? "ask" : foreignAction(policy, fallback);
  return { entries: builder.entries(), defaults: { ...detectors, image: fallback, foreign } };
}

function refusedProgram(path: string, isDirectory: boolean): RefusedPath {
  return { path, isWrite: false, isExec: true, isDirectory, isListed: false, isMark: false };
}

/**
 * Programs whose running is refused before anything of the caller is gone. Names given in argv[0] are not known at that
 * moment, so only entries by path count here; everything else is killed at its first instruction.
 */
export function refusedPrograms(policy: CompiledProcessPolicy, objects: readonly KernelObject[] = []): RefusedPath[] {
  if (!policy.hasRule || policy.effect === Effect.DISABLE) return [];
  const byCustomRules = objects.flatMap(({ text, effect }) => {
    const expressed = isStrongEffect(effect) ? express({ entry: { process: text } }) : undefined;
    return expressed && expressed.kind !== "name"
      ? [refusedProgram(expressed.text, expressed.kind === "directory")]
      : [];
  });
  return [...byCustomRules, ...refusedByLists(policy)];
}

function isStrongEffect(effect: Effect): boolean {
  return effect === Effect.PREVENT || effect === Effect.BLOCK;
}

function refusedByLists(policy: CompiledProcessPolicy): RefusedPath[] {
  if (!isStrongEffect(policy.effect)) return [];
  const denied = policy.denied.entries.flatMap((entry) => {
    const expressed = entry.hasConditions ? undefined : express(entry);
    return expressed && expressed.kind !== "name"
      ? [refusedProgram(expressed.text, expressed.kind === "directory")]
      : [];
  });
  // A detector that wants less than the section, or excepts something, is not to be forestalled.
  const isUniform = PROCESS_DETECTORS.every((name) => {
    const { effect } = policy.detectors[name];
    const hasExceptions = (policy.section?.detectors[name]?.exceptions.length ?? 0) > 0;
    return effect === Effect.DISABLE || (effect === policy.effect && !hasExceptions);
  });
  const isClosed = policy.state === LearningState.ACTIVE && policy.allowed.entries.length === 0 && isUniform;
  if (!isClosed || policy.items.length === 0) return denied;
  // Whatever the model knows by a path may be opened; whether its name and content fit is the exec hook's to say.
  const paths = new Set(policy.items.flatMap(({ path, name }) => (name.includes("/") ? [path, name] : [path])));
  const listed = [...paths].map((path) => ({ ...refusedProgram(path, false), isExec: false, isListed: true }));
  return [...denied, ...listed];
}
