import type { ProcessEntry } from "#gen/gabion/rule/v1/rule_pb.ts";
import { compilePattern, isPattern } from "../matching/pattern.ts";
import { compileTextIndex, type TextIndex } from "../matching/text-index.ts";
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
  const { path, invokedPath } = event;
  return invokedPath !== path && invokedPath.startsWith("/") ? [path, invokedPath] : [path];
}

/** A pattern below a directory applies to links only where they are scripts: a link is judged by what it leads to. */
function patternPathsOf(event: ProcessEvent): readonly string[] {
  return event.isScript ? pathsOf(event) : [event.path];
}

/** Texts that an entry without a slash is tried on. A name given in argv[0] cannot hide the file's own. */
function namesOf(event: ProcessEvent): readonly string[] {
  const name = event.isScript ? baseName(event.name) : event.name;
  const own = baseName(event.path);
  const invoked = event.invokedPath === event.path ? own : baseName(event.invokedPath);
  // Mostly all three are one.
  return name === own && invoked === own ? [own] : [name, own, invoked];
}

/** Texts that an entry is tried on. */
type TextsOf = (event: ProcessEvent) => readonly string[];

function textsFor({ process }: ProcessEntry): TextsOf {
  if (!process.includes("/") && process !== "*") return namesOf;
  return isPattern(process) ? patternPathsOf : pathsOf;
}

function compileEntry(entry: ProcessEntry, index: number): CompiledEntry {
  const pattern = compilePattern(entry.process);
  const textsOf = textsFor(entry);
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

/** Entries that are tried on the same texts, by what they name. */
interface Group {
  readonly textsOf: TextsOf;
  readonly places: readonly number[];
  readonly index: TextIndex;
}

function groupsOf(entries: readonly CompiledEntry[]): Group[] {
  return [namesOf, patternPathsOf, pathsOf].flatMap((textsOf) => {
    const own = entries.filter(({ entry }) => textsFor(entry) === textsOf);
    const index = compileTextIndex(own.map(({ entry }) => entry.process));
    return own.length === 0 ? [] : [{ textsOf, places: own.map((each) => each.index), index }];
  });
}

/** Entries with conditions are few, and gone through; the others are looked up. */
export function compileProcessList(entries: readonly ProcessEntry[]): CompiledProcessList {
  const compiled = entries.map(compileEntry);
  const groups = groupsOf(compiled.filter(({ hasConditions }) => !hasConditions));
  const conditional = compiled.filter(({ hasConditions }) => hasConditions);
  const find = (event: ProcessEvent): ListMatch | undefined => {
    let first = compiled.length;
    for (const { textsOf, places, index } of groups) {
      for (const text of textsOf(event)) {
        const found = index.find(text);
        if (found >= 0) first = Math.min(first, places[found] as number);
      }
    }
    if (conditional.length === 0) return compiled[first];
    const under = conditional.find((entry) => entry.matchesObject(event) && entry.matchesConditions(event));
    return under !== undefined && under.index < first ? under : compiled[first];
  };
  return { entries: compiled, find };
}
