import { ContentState } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState, type ProcessFact } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { isPattern } from "../matching/pattern.ts";
import { isLearning } from "../model/lifecycle.ts";
import type { ProcessEvent } from "./process-event.ts";
import type { CompiledEntry } from "./process-list.ts";
import type { CompiledProcessPolicy } from "./process-policy.ts";

/** What the kernel does, in growing strength; `ask` leaves it to the agent and never kills. */
export type KernelAction = "allow" | "ask" | "audit" | "kill" | "kill_container";

/** One entry of a kernel policy slot. Texts are in escaped form. */
export type KernelEntry =
  | { readonly kind: "item"; readonly path: string; readonly name: string; readonly action: KernelAction }
  | {
      readonly kind: "item_content";
      readonly path: string;
      readonly name: string;
      /** `image`, or the SHA-256 of the content. */
      readonly content: string;
      readonly action: KernelAction;
    }
  | { readonly kind: "path" | "name" | "directory"; readonly text: string; readonly action: KernelAction };

/** The part of a resultant policy that the kernel can decide by itself. */
export interface KernelSlot {
  readonly entries: readonly KernelEntry[];
  /** For files of the image that no entry names. */
  readonly defaultAction: KernelAction;
  /** For all other files that no entry names. */
  readonly foreignAction: KernelAction;
}

const STRENGTH: Record<KernelAction, number> = { allow: 1, ask: 2, audit: 3, kill: 4, kill_container: 5 };

function actionOf(effect: Effect): KernelAction {
  if (effect === Effect.BLOCK) return "kill_container";
  return effect === Effect.PREVENT ? "kill" : "audit";
}

/** Directories of one path that the kernel looks up: DIRECTORIES_MAX in exec_hash.bpf.h. */
const DIRECTORIES_MAX = 16;

type Expressed = { readonly kind: "path" | "name" | "directory"; readonly text: string };

/** How the kernel can match an entry, or undefined where it cannot: stars other than a whole directory's. */
function express(entry: CompiledEntry): Expressed | undefined {
  const text = entry.entry.process;
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
  };
}

/** A pattern of names is tried on the link that a program was called by too, which no item tells beforehand. */
function dependsOnLink({ entry }: CompiledEntry): boolean {
  return isPattern(entry.process) && !entry.process.includes("/") && entry.process !== "*";
}

/** What an item of the model is in the kernel: allowed, unless the denied list may name it. */
function itemAction(policy: CompiledProcessPolicy, item: ProcessFact, denial: KernelAction): KernelAction {
  const event = eventOf(item);
  const naming = policy.denied.entries.filter((entry) => entry.matchesObject(event));
  if (naming.some((entry) => !entry.hasConditions)) return denial;
  if (naming.length > 0 || policy.denied.entries.some(dependsOnLink)) return "ask";
  const isDrift = item.contentState !== ContentState.UNCHANGED && policy.driftEffect !== Effect.DISABLE;
  return isDrift ? "ask" : "allow";
}

class SlotBuilder {
  readonly #entries = new Map<string, KernelEntry>();

  add(entry: KernelEntry): void {
    const { action, ...rest } = entry;
    const key = JSON.stringify(rest);
    const known = this.#entries.get(key);
    if (known === undefined || STRENGTH[action] > STRENGTH[known.action]) this.#entries.set(key, entry);
  }

  entries(): KernelEntry[] {
    return [...this.#entries.values()];
  }
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
    if (expressed) builder.add({ ...expressed, action: entry.hasConditions || !isDeniedWhole ? "ask" : "allow" });
    else isWhole = false;
  }
  return isWhole;
}

function addItems(builder: SlotBuilder, policy: CompiledProcessPolicy, denial: KernelAction): void {
  for (const item of policy.items) {
    const { path, name } = item;
    const content = item.contentState === ContentState.UNCHANGED ? "image" : item.sha256;
    const action = itemAction(policy, item, denial);
    builder.add({ kind: "item", path, name, action: STRENGTH[action] > STRENGTH.ask ? action : "ask" });
    if (content !== "") builder.add({ kind: "item_content", path, name, content, action });
  }
}

/** What the kernel does about files that are not the image's and that nothing names. */
function foreignAction(policy: CompiledProcessPolicy, fallback: KernelAction): KernelAction {
  const driftAction = policy.driftEffect === Effect.DISABLE ? fallback : actionOf(policy.driftEffect);
  const hasExceptions = (policy.section?.detectors["drift"]?.exceptions.length ?? 0) > 0;
  return driftAction === fallback && !hasExceptions ? fallback : "ask";
}

/**
 * Translates a resultant policy for the kernel. While the model learns or is on trial the kernel decides denials only
 * and asks about everything else. Once it is active, known-good execs are only counted there, and the default acts by
 * itself where nothing in the rule could say otherwise: an allowed entry that the kernel cannot express turns the
 * default into a question.
 */
export function toKernelSlot(policy: CompiledProcessPolicy): KernelSlot {
  const builder = new SlotBuilder();
  const isActive = policy.state === LearningState.ACTIVE;
  if (!policy.hasRule || policy.effect === Effect.DISABLE) {
    const action = isLearning(policy.state) && !policy.hasRule ? "ask" : "allow";
    return { entries: [], defaultAction: action, foreignAction: action };
  }
  const denial = actionOf(policy.effect);
  const isDeniedWhole = addDenied(builder, policy, denial);
  if (!isActive) return { entries: builder.entries(), defaultAction: "ask", foreignAction: "ask" };
  addItems(builder, policy, denial);
  const isAllowedWhole = addAllowed(builder, policy, isDeniedWhole);
  const fallback = policy.effect === Effect.ALERT || !isAllowedWhole ? "ask" : denial;
  return {
    entries: builder.entries(),
    defaultAction: fallback,
    foreignAction: fallback === "ask" ? "ask" : foreignAction(policy, fallback),
  };
}
