import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { isPattern } from "../matching/pattern.ts";
import type { KernelObject } from "./custom-rules.ts";
import { type CompiledFilePolicy, PROTECTED_FILES, type ProtectingDetector } from "./file-policy.ts";
import {
  actionOf,
  KERNEL_LEARNED_MAX,
  type KernelAction,
  type KernelDefaults,
  type KernelEntry,
  type RefusedPath,
  strongestOf,
} from "./kernel-entry.ts";

/** Folders of one path that the kernel looks up: DIRECTORIES_MAX in text_hash.bpf.h. */
const DIRECTORIES_MAX = 16;

type Expressed = { readonly kind: "file_path" | "file_directory"; readonly text: string };

/** How the kernel can match a path, or undefined: stars other than a whole folder's. */
function express(path: string): Expressed | undefined {
  if (!isPattern(path)) return { kind: "file_path", text: path };
  const directory = path.slice(0, -1);
  const depth = directory.split("/").length - 1;
  const isDirectory = path.endsWith("/*") && path.startsWith("/") && !isPattern(directory) && depth <= DIRECTORIES_MAX;
  return isDirectory ? { kind: "file_directory", text: directory } : undefined;
}

/** What a pattern lies under: everything there is asked about. */
function around(path: string): Expressed {
  const before = path.slice(0, path.search(/[*?]/));
  return { kind: "file_directory", text: before.slice(0, before.lastIndexOf("/") + 1) || "/" };
}

/** After an open nothing can be refused any more: prevent is the file system watch's, block ends the container. */
function afterwards(effect: Effect): KernelAction {
  return effect === Effect.BLOCK ? "block" : actionOf(Effect.ALERT);
}

const GROUPS = Object.entries(PROTECTED_FILES) as [ProtectingDetector, { readonly paths: readonly string[] }][];

function protectedEntries(policy: CompiledFilePolicy): KernelEntry[] {
  return GROUPS.filter(([name]) => policy.detectors[name].effect !== Effect.DISABLE).flatMap(([, { paths }]) =>
    paths.map((path) => ({ ...(express(path) ?? around(path)), action: "ask" }) as const),
  );
}

/** Folders of the model, each with the program that writes there. */
function knownFolders(policy: CompiledFilePolicy): KernelEntry[] {
  return policy.items
    .filter(({ isExecutable, isPattern }) => !isExecutable && !isPattern)
    .map((item): KernelEntry => {
      const directory = item.path.endsWith("/") ? item.path : `${item.path}/`;
      const origin = { kind: "item", fact: { case: "file", value: item } } as const;
      return { kind: "file_item", directory, process: item.processPath, action: "allow", origin };
    });
}

/** The filesystem part of a kernel slot. With `isTold` nothing that the agent is to hear of passes untold. */
export function toFileSlot(
  policy: CompiledFilePolicy,
  objects: readonly KernelObject[] = [],
  isTold = false,
): {
  readonly entries: readonly KernelEntry[];
  readonly defaults: Pick<KernelDefaults, "file" | "executable">;
} {
  if (!policy.hasRule || policy.effect === Effect.DISABLE) {
    return { entries: [], defaults: { file: "allow", executable: "allow" } };
  }
  const named = [...objects, ...policy.denied.map(({ source }) => ({ text: source, effect: policy.effect }))];
  const denied = named.map(({ text, effect }): KernelEntry => {
    const expressed = express(text);
    return expressed ? { ...expressed, action: afterwards(effect) } : { ...around(text), action: "ask" };
  });
  if (policy.state !== LearningState.ACTIVE) {
    // What the list names is the list's, and left to the agent.
    const asked = policy.allowed.map(
      ({ source }) => ({ ...(express(source) ?? around(source)), action: "ask" }) as const,
    );
    const entries = strongestOf([...denied, ...protectedEntries(policy), ...asked]);
    const known = isTold ? [] : knownFolders(policy).slice(0, KERNEL_LEARNED_MAX);
    return { entries: [...entries, ...known], defaults: { file: "ask", executable: "ask" } };
  }
  const isAllowedWhole = policy.allowed.every(({ source }) => express(source) !== undefined);
  const allowed = policy.allowed.flatMap(({ source }): KernelEntry[] => {
    const expressed = express(source);
    const origin = { kind: "list", section: Section.FILESYSTEM, matched: source } as const;
    return expressed ? [{ ...expressed, action: "allow", origin }] : [];
  });
  const executable = policy.detectors.changed_binary.effect === Effect.DISABLE ? "allow" : "ask";
  const file = policy.effect === Effect.BLOCK && isAllowedWhole ? "block" : "ask";
  // What a family covers the kernel cannot tell from what it does not: it asks about everything below the part that is fixed.
  const families = policy.items
    .filter(({ isPattern }) => isPattern)
    .map(({ path }) => ({ ...around(path), action: "ask" }) as const);
  const listed = strongestOf([...denied, ...protectedEntries(policy), ...allowed, ...families]);
  return { entries: [...listed, ...knownFolders(policy)], defaults: { file, executable } };
}

function refused(path: string): RefusedPath[] {
  const expressed = express(path);
  if (!expressed) return [];
  const isDirectory = expressed.kind === "file_directory";
  return [{ path: expressed.text, isWrite: true, isExec: false, isDirectory, isListed: false, isMark: false }];
}

function isStrong(effect: Effect): boolean {
  return effect === Effect.PREVENT || effect === Effect.BLOCK;
}

/**
 * What opening for writing is refused: what the rule denies by a path or a whole folder, and protected files once the
 * model is active. A detector with exceptions is left out: the watch does not know who asks.
 */
export function refusedFiles(policy: CompiledFilePolicy, objects: readonly KernelObject[] = []): RefusedPath[] {
  if (!policy.hasRule || policy.effect === Effect.DISABLE) return [];
  const byCustomRules = objects.flatMap(({ text, effect }) => (isStrong(effect) ? refused(text) : []));
  const denied = isStrong(policy.effect) ? policy.denied.flatMap(({ source }) => refused(source)) : [];
  const byDetectors = GROUPS.filter(
    ([name]) =>
      policy.state === LearningState.ACTIVE &&
      isStrong(policy.detectors[name].effect) &&
      (policy.section?.detectors[name]?.exceptions.length ?? 0) === 0,
  ).flatMap(([, { paths }]) => paths.flatMap(refused));
  return [...byCustomRules, ...denied, ...byDetectors];
}
