import type { Node } from "./shell-tree.ts";

/** Texts that a word may have; undefined where nobody can tell. */
export type Value = readonly string[] | undefined;
/** Words of one call; a word that nobody can tell is undefined. */
export type Words = readonly (string | undefined)[];
/** Lists that the positional parameters may be. */
export type Arguments = readonly Words[];

/** Possibilities that are followed side by side; more are given up as unknown. */
export const POSSIBLE_MAX = 8;

/** Longer texts are given up as unknown: a script can double one a hundred times. */
const TEXT_MAX = 4_096;

/** Values without repetition; unknown where there are too many, or one is too long. */
export function oneOf(texts: readonly string[]): Value {
  const unique = [...new Set(texts)];
  return unique.length > POSSIBLE_MAX || unique.some((text) => text.length > TEXT_MAX) ? undefined : unique;
}

/** Each text of one with each of the other. */
export function concatenated(a: Value, b: Value): Value {
  return a && b && oneOf(a.flatMap((x) => b.map((y) => x + y)));
}

function mergeValue(a: Value, b: Value): Value {
  return a && b && oneOf([...a, ...b]);
}

function mergeArguments(lists: readonly Arguments[]): Arguments {
  const unique = new Map(lists.flat().map((words) => [JSON.stringify(words.map((word) => word ?? null)), words]));
  return [...unique.values()].slice(0, POSSIBLE_MAX);
}

/** A function of the script, with the file that it stands in. */
export interface ShellFunction {
  readonly body: Node;
  readonly file: string;
}

/** What a shell knows at one place of a script. */
export class Scope {
  readonly vars: Map<string, Value>;
  readonly functions: Map<string, ShellFunction>;
  args: Arguments;
  /** Set where nothing goes on: behind `exec` and `exit` the script, behind `return` the function or sourced file. */
  ending: "exit" | "return" | undefined;

  constructor(vars: ReadonlyMap<string, Value>, args: Arguments, functions: ReadonlyMap<string, ShellFunction>) {
    this.vars = new Map(vars);
    this.args = args;
    this.functions = new Map(functions);
  }

  get isOver(): boolean {
    return this.ending !== undefined;
  }

  fork(): Scope {
    return new Scope(this.vars, this.args, this.functions);
  }

  /** What a function or sourced file ends with `return`, goes on behind it. */
  resume(): void {
    if (this.ending === "return") this.ending = undefined;
  }

  get(name: string): Value {
    return this.vars.has(name) ? this.vars.get(name) : [""];
  }

  /** Goes on as what is common to the ways that led here; is over where all of them are. */
  join(ways: readonly Scope[]): void {
    const open = ways.filter(({ isOver }) => !isOver);
    const [first, ...others] = open;
    if (!first) {
      this.ending = ways.some(({ ending }) => ending === "return") ? "return" : "exit";
      return;
    }
    for (const name of new Set(open.flatMap(({ vars }) => [...vars.keys()]))) {
      this.vars.set(
        name,
        others.reduce<Value>((value, way) => mergeValue(value, way.get(name)), first.get(name)),
      );
    }
    for (const way of open) for (const [name, body] of way.functions) this.functions.set(name, body);
    this.args = mergeArguments(open.map(({ args }) => args));
  }
}
