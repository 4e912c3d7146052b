import type { ImageFiles } from "./image-files.ts";
import {
  type Arguments,
  concatenated,
  oneOf,
  POSSIBLE_MAX,
  type Scope,
  type Value,
  type Words,
} from "./shell-scope.ts";
import { childrenOf, type Node, operatorsOf } from "./shell-tree.ts";

/** Runs what stands in `$(…)`, and answers what it prints where that can be told. */
export type Substitute = (node: Node) => Value;

/** Gives words of a script their values. */
export interface WordContext {
  readonly scope: Scope;
  readonly image: ImageFiles;
  readonly substitute: Substitute;
}

const GLOB = /[*?[]/;

function unescaped(text: string): string {
  return text.replaceAll(/\\(.)/gs, (_, char: string) => (char === "\n" ? "" : char));
}

/** `$1`, `$#` and their like, where all lists that the parameters may be agree on having a value. */
function special(name: string, { args }: Scope): Value {
  if (name === "#") return oneOf(args.map((words) => String(words.length)));
  if (name === "0" || !/^\d+$/.test(name)) return undefined;
  const values = args.map((words) => (Number(name) > words.length ? "" : words[Number(name) - 1]));
  return values.every((value) => value !== undefined) ? oneOf(values as string[]) : undefined;
}

function variable(name: string, scope: Scope): Value {
  return /^[A-Za-z_]\w*$/.test(name) ? scope.get(name) : special(name, scope);
}

function isSet(name: string, scope: Scope): boolean {
  return /^\d+$/.test(name) || scope.vars.has(name);
}

/** A pattern of `${name#pattern}` with at most one star, at its begin or end; others are not told. */
function trimmer(operator: string, pattern: string): ((text: string) => string) | undefined {
  const isFront = operator.startsWith("#");
  const isLong = operator.length === 2;
  if (/[?[\]]/.test(pattern) || pattern.indexOf("*") !== pattern.lastIndexOf("*")) return undefined;
  if (!pattern.includes("*")) {
    if (isFront) return (text) => (text.startsWith(pattern) ? text.slice(pattern.length) : text);
    return (text) => (text.endsWith(pattern) ? text.slice(0, text.length - pattern.length) : text);
  }
  const fixed = pattern.replace("*", "");
  if (isFront && pattern.startsWith("*"))
    return (text) => {
      const at = isLong ? text.lastIndexOf(fixed) : text.indexOf(fixed);
      return at < 0 ? text : text.slice(at + fixed.length);
    };
  if (!isFront && pattern.endsWith("*"))
    return (text) => {
      const at = isLong ? text.indexOf(fixed) : text.lastIndexOf(fixed);
      return at < 0 ? text : text.slice(0, at);
    };
  return undefined;
}

/** What takes a value's place where it is empty (`:-`) or not set (`-`). */
function withDefault(value: Value, word: Value, isEmptyToo: boolean, has: boolean): Value {
  if (!isEmptyToo) return has ? value : word;
  if (value?.every((text) => text === "") === true) return word;
  return value && word && oneOf(value.flatMap((text) => (text === "" ? word : [text])));
}

/** What takes a value's place where there is one. */
function withAlternative(value: Value, word: Value, isEmptyToo: boolean, has: boolean): Value {
  if (!isEmptyToo) return has ? word : [""];
  if (value?.every((text) => text === "") === true) return [""];
  return value?.every((text) => text !== "") ? word : undefined;
}

function expansion(node: Node, context: WordContext): Value {
  const [first, ...rest] = childrenOf(node).map((child) => child.node);
  const name = first?.text ?? "";
  const operator = operatorsOf(node).find((text) => !["${", "}"].includes(text));
  const value = variable(name, context.scope);
  if (operator === undefined) return value;
  const word = rest.map((part) => wordValue(part, context)).reduce(concatenated, [""]);
  const has = isSet(name, context.scope);
  if (/^:?[-=]$/.test(operator)) {
    const given = withDefault(value, word, operator.startsWith(":"), has);
    if (operator.endsWith("=")) context.scope.vars.set(name, given);
    return given;
  }
  if (/^:?\+$/.test(operator)) return withAlternative(value, word, operator.startsWith(":"), has);
  if (!/^(##?|%%?)$/.test(operator)) return undefined;
  const [pattern] = rest;
  const trim =
    pattern && rest.length === 1 ? trimmer(operator, unescaped(pattern.text.replaceAll(/^"|"$/g, ""))) : undefined;
  return trim && value ? oneOf(value.map(trim)) : undefined;
}

/** What one word may be, as one text. */
export function wordValue(node: Node, context: WordContext): Value {
  switch (node.type) {
    case "word":
    case "number":
    case "extglob_pattern":
    case "regex":
    case "file_descriptor":
      return [unescaped(node.text)];
    case "raw_string":
      return [node.text.slice(1, -1)];
    case "ansi_c_string":
      return node.text.includes("\\") ? undefined : [node.text.slice(2, -1)];
    case "string":
      return stringValue(node, context);
    case "concatenation":
      return childrenOf(node)
        .map((child) => wordValue(child.node, context))
        .reduce(concatenated, [""]);
    case "simple_expansion":
      return variable(node.text.slice(1), context.scope);
    case "expansion":
      return expansion(node, context);
    case "command_substitution":
      return context.substitute(node);
    case "command_name":
      return childrenOf(node)
        .map((child) => wordValue(child.node, context))
        .reduce(concatenated, [""]);
    default:
      // What stands in there may run something all the same.
      for (const child of childrenOf(node)) wordValue(child.node, context);
      return undefined;
  }
}

/** Text between double quotes: the grammar names its parts and leaves blanks between them to the text. */
function stringValue(node: Node, context: WordContext): Value {
  let value: Value = [""];
  let at = node.startIndex + 1;
  const between = (to: number) => {
    const text = node.text.slice(at - node.startIndex, to - node.startIndex);
    value = concatenated(value, [text.replaceAll(/\\([$`"\\\n])/g, (_, char: string) => (char === "\n" ? "" : char))]);
  };
  for (const { node: part } of childrenOf(node)) {
    if (part.type === "string_content") continue;
    between(part.startIndex);
    value = concatenated(value, wordValue(part, context));
    at = part.endIndex;
  }
  between(node.endIndex - 1);
  return value;
}

/** The list that `"$@"` or `$*` stands for; undefined where the word is something else. */
function spliced(node: Node, { args }: Scope): Arguments | undefined {
  if (/^"?\$(@|\*|\{@\}|\{\*\})"?$/.test(node.text)) return args;
  return /^"?\$\{@:/.test(node.text) ? [[undefined]] : undefined;
}

function isUnquoted(node: Node): boolean {
  return node.type === "simple_expansion" || node.type === "expansion" || node.type === "command_substitution";
}

/** The lists of words that one argument may become: split at blanks and matched with files where it is not quoted. */
function argumentWords(node: Node, context: WordContext): Arguments {
  const list = spliced(node, context.scope);
  if (list) return list;
  const value = wordValue(node, context);
  if (!value) return [[undefined]];
  return value.map((text): Words => {
    if (isUnquoted(node)) return text.split(/\s+/).filter((part) => part !== "");
    if (node.type !== "string" && node.type !== "raw_string" && GLOB.test(text) && text.startsWith("/")) {
      const found = context.image.glob(text);
      return found.length > 0 ? found : [text];
    }
    return [text];
  });
}

/** The lists of words that arguments may become, one behind the other. */
export function wordLists(nodes: readonly Node[], context: WordContext): Arguments {
  let lists: Arguments = [[]];
  for (const node of nodes) {
    const more = argumentWords(node, context);
    lists = lists.flatMap((words) => more.map((next) => [...words, ...next])).slice(0, POSSIBLE_MAX);
  }
  return lists;
}
