import type { ProcessEntry } from "#gen/gabion/rule/v1/rule_pb.ts";
import { compilePattern, isPattern } from "../matching/pattern.ts";
import { baseName, type ProcessEvent } from "./process-event.ts";

/** Three answers: yes, no, or only under a condition that the entry makes. */
export interface ListMatch {
  readonly entry: ProcessEntry;
  readonly index: number;
}

export interface CompiledEntry extends ListMatch {
  readonly matchesObject: (event: ProcessEvent) => boolean;
  readonly matchesConditions: (event: ProcessEvent) => boolean;
  readonly hasConditions: boolean;
}

/** Texts that an entry with a slash is tried on: the real path, and the path as invoked (scripts, links). */
function pathsOf(event: ProcessEvent): readonly string[] {
  return event.invokedPath.startsWith("/") ? [event.path, event.invokedPath] : [event.path];
}

/** A pattern below a directory applies to links only where they are scripts: a link is judged by what it leads to. */
function patternPathsOf(event: ProcessEvent): readonly string[] {
  return event.isScript ? pathsOf(event) : [event.path];
}

/** Texts that an entry without a slash is tried on. A name given in argv[0] cannot hide the file's own. */
function namesOf(event: ProcessEvent): readonly string[] {
  return [event.isScript ? baseName(event.name) : event.name, baseName(event.path), baseName(event.invokedPath)];
}

function compileEntry(entry: ProcessEntry, index: number): CompiledEntry {
  const pattern = compilePattern(entry.process);
  const isPath = entry.process.includes("/") || entry.process === "*";
  const textsOf = isPath ? (isPattern(entry.process) ? patternPathsOf : pathsOf) : namesOf;
  const parents = entry.parents.map((parent) => compilePattern(parent));
  return {
    entry,
    index,
    hasConditions: entry.sha256 !== "" || parents.length > 0,
    matchesObject: (event) => textsOf(event).some(pattern.matches),
    matchesConditions: (event) =>
      (entry.sha256 === "" || entry.sha256 === event.sha256) &&
      (parents.length === 0 || parents.some((parent) => event.parents.slice(0, 1).some(parent.matches))),
  };
}

/** A list of processes: real paths, names, `*` patterns, optionally with a SHA-256 or parents as conditions. */
export interface CompiledProcessList {
  readonly entries: readonly CompiledEntry[];
  readonly find: (event: ProcessEvent) => ListMatch | undefined;
}

export function compileProcessList(entries: readonly ProcessEntry[]): CompiledProcessList {
  const compiled = entries.map(compileEntry);
  return {
    entries: compiled,
    find: (event) => compiled.find((entry) => entry.matchesObject(event) && entry.matchesConditions(event)),
  };
}
