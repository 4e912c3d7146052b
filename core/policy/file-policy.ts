import { create } from "@bufbuild/protobuf";
import { FileOperation } from "#gen/gabion/event/v1/event_pb.ts";
import { type Fact, FactSchema, type FileFact, type LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { type Decision, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { FilesystemSection } from "#gen/gabion/rule/v1/rule_pb.ts";
import { badText, type Intel } from "../intel/intel-set.ts";
import { compilePattern, type Pattern } from "../matching/pattern.ts";
import { compileTextIndex, firstPlace, type TextIndex } from "../matching/text-index.ts";
import { compileFamilies, type Families } from "../model/item-pattern.ts";
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
  type SectionPolicy,
  toDecision,
  whereNamed,
} from "./finding.ts";
import { nearestItems } from "./nearest.ts";
import type { TreatmentSettings } from "./treatment.ts";

/** What the filesystem part of a resultant policy is made of. */
export interface FilePolicyInput {
  readonly section: FilesystemSection | undefined;
  readonly hasRule: boolean;
  readonly items: readonly FileFact[];
  readonly intel?: Intel;
  readonly state: LearningState;
  readonly settings?: TreatmentSettings;
}

export const FILE_DETECTORS = ["changed_binary", "account_files", "ssh_files", "loader_files", "malware"] as const;
export type FileDetector = (typeof FILE_DETECTORS)[number];

/** Detectors that each watch over some files. */
export type ProtectingDetector = "account_files" | "ssh_files" | "loader_files";

/** Files that only an administrator's work changes, and what each group is for. */
export const PROTECTED_FILES: Readonly<
  Record<ProtectingDetector, { readonly what: string; readonly paths: readonly string[] }>
> = {
  account_files: {
    what: "holds the accounts",
    paths: ["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/sudoers", "/etc/sudoers.d/*"],
  },
  ssh_files: { what: "lets people log in", paths: ["/root/.ssh/*", "/home/*/.ssh/*", "/etc/ssh/*"] },
  loader_files: {
    what: "decides what every program loads",
    paths: ["/etc/ld.so.preload", "/etc/ld.so.conf", "/etc/ld.so.conf.d/*", "/etc/ld.so.cache"],
  },
};

/** The resultant policy for files. */
export interface CompiledFilePolicy extends FilePolicyInput, SectionPolicy {
  readonly denied: readonly Pattern[];
  readonly allowed: readonly Pattern[];
  readonly lists: { readonly denied: TextIndex; readonly allowed: TextIndex };
  readonly detectors: Readonly<Record<FileDetector, CompiledDetector>>;
  readonly directories: ReadonlySet<string>;
  /** Families of folders, as the model folded them. */
  readonly families: Families;
  readonly hasFamilies: boolean;
}

/** A change of a file as policy looks at it. Paths are real ones inside the container. */
export interface FileEvent {
  readonly operation: FileOperation;
  readonly path: string;
  /** Second path of a rename or link; empty otherwise. */
  readonly newPath: string;
  /** Real path of the program that did it. */
  readonly processPath: string;
  /** True too for a shared library, whatever its mode. */
  readonly isExecutable: boolean;
}

/** A shared library, by its name: it is run without having a mode for that. `is_library` in file_decide.bpf.h. */
export function isLibrary(path: string): boolean {
  return /\.so(\.[^/]{0,19}\d)?$/.test(path);
}

const VERBS: Readonly<Record<FileOperation, string>> = {
  [FileOperation.UNSPECIFIED]: "changed",
  [FileOperation.WRITE]: "opened for writing",
  [FileOperation.CREATE]: "created",
  [FileOperation.RENAME]: "renamed",
  [FileOperation.DELETE]: "removed",
  [FileOperation.CHANGE_MODE]: "given another mode or owner",
  [FileOperation.LINK]: "linked",
};

/** Folder of a path, without the last slash. */
export function directoryOf(path: string): string {
  return path.slice(0, Math.max(1, path.lastIndexOf("/")));
}

function key(directory: string, processPath: string): string {
  return `${directory}\0${processPath}`;
}

/** Compiles the resultant policy. A section that the rule leaves out is disabled. */
export function compileFilePolicy(input: FilePolicyInput): CompiledFilePolicy {
  const effect = input.section?.effect ?? Effect.DISABLE;
  const detectors = FILE_DETECTORS.map(
    (name) => [name, compileDetector(input.section?.detectors[name], effect)] as const,
  );
  return {
    ...input,
    effect,
    denied: (input.section?.denied ?? []).map((path) => compilePattern(path)),
    allowed: (input.section?.allowed ?? []).map((path) => compilePattern(path)),
    lists: {
      denied: compileTextIndex(input.section?.denied ?? []),
      allowed: compileTextIndex(input.section?.allowed ?? []),
    },
    detectors: Object.fromEntries(detectors) as Record<FileDetector, CompiledDetector>,
    directories: new Set(
      input.items.filter(({ isPattern }) => !isPattern).map((item) => key(item.path, item.processPath)),
    ),
    hasFamilies: input.items.some(({ isPattern }) => isPattern),
    families: compileFamilies(input.items.map((value) => create(FactSchema, { kind: { case: "file", value } }))),
  };
}

/** Patterns of all paths that a rule names for a strong word: its denied list, and files that detectors watch over. */
export function namedPatterns({ hasRule, effect, denied, detectors }: CompiledFilePolicy): string[] {
  if (!hasRule || effect === Effect.DISABLE) return [];
  const on = Object.entries(PROTECTED_FILES).filter(
    ([name]) => detectors[name as ProtectingDetector].effect !== Effect.DISABLE,
  );
  return [...denied.map(({ source }) => source), ...on.flatMap(([, { paths }]) => paths)];
}

function pathsOf({ path, newPath }: FileEvent): string[] {
  return newPath === "" ? [path] : [path, newPath];
}

/** Who did it may have ended before it could be asked. */
function byWhom(processPath: string): string {
  return processPath === "" ? "" : ` by \`${processPath}\``;
}

function shown(event: FileEvent): string {
  const to = event.newPath === "" ? "" : ` to \`${event.newPath}\``;
  return `\`${event.path}\` ${VERBS[event.operation]}${to}${byWhom(event.processPath)}`;
}

const compiledProtected = Object.entries(PROTECTED_FILES).map(([name, { what, paths }]) => ({
  name: name as ProtectingDetector,
  what,
  index: compileTextIndex(paths),
}));

/**
 * Which entry names a path, or -1. A folder that is moved takes with it what lies below, and puts something else in the
 * place of what a list names there.
 */
function placeOf(index: TextIndex, path: string, { operation }: FileEvent): number {
  const place = index.find(path);
  return place < 0 && operation === FileOperation.RENAME ? index.findBelow(path) : place;
}

/** True for a path that a rule names for a strong word, or that lies around such a one: see `namedPatterns`. */
export function isNamed({ hasRule, effect, lists, detectors }: CompiledFilePolicy, path: string): boolean {
  const names = (index: TextIndex) => index.find(path) >= 0 || index.findBelow(path) >= 0;
  if (!hasRule || effect === Effect.DISABLE) return false;
  const on = compiledProtected.filter(({ name }) => detectors[name].effect !== Effect.DISABLE);
  return names(lists.denied) || on.some(({ index }) => names(index));
}

function findDetection(policy: CompiledFilePolicy, event: FileEvent): Finding | undefined {
  const paths = pathsOf(event);
  for (const { name, what, index } of compiledProtected) {
    const { effect, excepts } = policy.detectors[name];
    if (effect === Effect.DISABLE) continue;
    const path = paths.find((each) => placeOf(index, each, event) >= 0);
    if (path === undefined || excepts(path, event.processPath)) continue;
    return detection(effect, name, false, `${shown(event)}; \`${path}\` ${what}`);
  }
  const { effect, excepts } = policy.detectors.changed_binary;
  if (effect === Effect.DISABLE || !event.isExecutable || excepts(event.newPath || event.path, event.processPath))
    return undefined;
  return detection(effect, "changed_binary", false, `an executable was changed: ${shown(event)}`);
}

function fileFact(path: string, processPath: string, isExecutable = false): Fact {
  return create(FactSchema, { kind: { case: "file", value: { path, processPath, isExecutable } } });
}

function familyPath(family: Fact | undefined): string | undefined {
  return family?.kind.case === "file" ? family.kind.value.path : undefined;
}

function findInModel(policy: CompiledFilePolicy, event: FileEvent): Finding {
  const { processPath } = event;
  const knownAs = (path: string): string | undefined => {
    const directory = directoryOf(path);
    if (policy.directories.has(key(directory, processPath))) return directory;
    return policy.hasFamilies ? familyPath(policy.families.of(fileFact(directory, processPath))) : undefined;
  };
  const unknown = pathsOf(event).find((path) => knownAs(path) === undefined);
  return unknown === undefined
    ? inModel(policy.effect, knownAs(event.path) ?? "", () => shown(event))
    : deviation(policy.effect, () => `${shown(event)}: the model does not let it write in \`${directoryOf(unknown)}\``);
}

function findDenied(policy: CompiledFilePolicy, event: FileEvent): Finding | undefined {
  const place = firstPlace(pathsOf(event).map((path) => placeOf(policy.lists.denied, path, event)));
  return whereNamed(policy.denied[place]?.source, (m) => denial(policy.effect, m, () => shown(event)));
}

/** Moving a file out of an allowed folder is not allowed by that: each path must be named. */
function findAllowed(policy: CompiledFilePolicy, event: FileEvent): Finding | undefined {
  const places = pathsOf(event).map((path) => policy.lists.allowed.find(path));
  const allowing = places.includes(-1) ? undefined : policy.allowed[places[0] ?? -1]?.source;
  return whereNamed(allowing, (m) => allowed(policy.effect, m, () => shown(event)));
}

const CONSIDERATIONS: readonly Consideration<CompiledFilePolicy, FileEvent>[] = [
  ["denied list", findDenied],
  ["detectors", findDetection],
  ["allowed list", findAllowed],
  ["model", findInModel],
];

/** The ruling on a changed file. */
export function ruleFile(policy: CompiledFilePolicy, event: FileEvent): Ruling {
  return rule(policy, "filesystem", CONSIDERATIONS, event, () =>
    nearestItems(
      policy.items,
      (item) => (item.processPath === event.processPath ? 0 : 1_000) - sharedLength(item.path, event.path),
      (item) => `${item.path} by ${item.processPath}`,
      (item) => (item.path === directoryOf(event.path) ? "another program" : "another folder"),
    ),
  );
}

/** What policy says of a changed file. */
export function evaluateFile(policy: CompiledFilePolicy, event: FileEvent): Decision {
  return toDecision(ruleFile(policy, event));
}

/** A file that was written and closed, with what is in it. */
export interface WrittenFile {
  readonly path: string;
  readonly processPath: string;
  readonly sha256: string;
}

/** What policy says of content that was written: only whether it is known to be bad is asked. Undefined where it is not. */
export function evaluateWritten(policy: CompiledFilePolicy, file: WrittenFile): Decision | undefined {
  const { effect, excepts } = policy.detectors.malware;
  const bad = policy.intel?.byHash.get(file.sha256);
  if (bad === undefined || !policy.hasRule || effect === Effect.DISABLE) return undefined;
  if (excepts(file.path, file.sha256)) return undefined;
  const message = `\`${file.path}\` was written${byWhom(file.processPath)} with the content of a bad file, ${badText(bad)}`;
  return toDecision(rulingOf(policy, detection(effect, "malware", true, message)));
}

function sharedLength(a: string, b: string): number {
  let at = 0;
  while (at < a.length && a[at] === b[at]) at += 1;
  return at;
}

/** What waits for a person after a detection: the file itself, not the folders, which others may write in rightly. */
export function heldFileFact({ path, newPath, processPath, isExecutable }: FileEvent): Fact {
  const value = { path: newPath === "" ? path : newPath, processPath, isExecutable };
  return create(FactSchema, { kind: { case: "file", value } });
}

/** What a change teaches: in which folders the program writes, and which executables it makes. */
export function fileFacts(event: FileEvent): Fact[] {
  const fact = (path: string, isExecutable: boolean) => fileFact(path, event.processPath, isExecutable);
  const directories = new Set(pathsOf(event).map(directoryOf));
  const folders = [...directories].map((directory) => fact(directory, false));
  const isMade = event.isExecutable && event.operation !== FileOperation.DELETE;
  return isMade ? [...folders, fact(event.newPath === "" ? event.path : event.newPath, true)] : folders;
}
