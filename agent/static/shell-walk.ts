import { posix } from "node:path";
import { compilePattern } from "#core/matching/pattern.ts";
import type { ImageFiles } from "./image-files.ts";
import { oneOf, type Scope, type Value, type Words } from "./shell-scope.ts";
import {
  childrenOf,
  inField,
  lineOf,
  type Node,
  operatorsOf,
  SCRIPT_MAX_BYTES,
  type ShellParser,
} from "./shell-tree.ts";
import { type WordContext, wordLists, wordValue } from "./shell-words.ts";

/** Where in the image something was found. */
export interface Place {
  readonly file: string;
  readonly line: number;
}

/** What a shell script does to the world around it. */
export interface ShellHost {
  readonly image: ImageFiles;
  readonly parser: ShellParser;
  /** A program is run; with `isExec` it takes the shell's place. */
  readonly run: (words: Words, scope: Scope, place: Place, isExec: boolean) => void;
  readonly unresolved: (place: Place, message: string) => void;
  readonly readFile: (path: string) => void;
}

/** Bounds of one analysis. */
const NODES_MAX = 50_000;
/** Trees stay in memory until the end: functions point into them. */
const PARSED_MAX_BYTES = 1024 * 1024;
const DEPTH_MAX = 24;
/** How often a loop's body is followed: once with what was before, once with what it makes. */
const ROUNDS = 2;

/** Commands of the shell itself that run nothing else. */
const BUILTINS = new Set(
  `: [ alias bg break continue declare echo export false fc fg getopts hash help history jobs kill let local logout mapfile
   popd printf pushd pwd read readarray readonly return set shift shopt suspend test times true type typeset ulimit umask unalias
   unset wait dirs disown enable caller compgen complete`.split(/\s+/),
);

/** Follows a script without running it. Both ways of a decision that cannot be told are followed. */
export class ShellWalk {
  readonly #host: ShellHost;
  #nodes = 0;
  #depth = 0;
  readonly #sourced: string[] = [];
  /** What variables were before the functions that are being followed made them their own. */
  readonly #locals: Map<string, Value>[] = [];
  #parsedBytes = 0;

  constructor(host: ShellHost) {
    this.#host = host;
  }

  /** Follows a whole script; `scope` is changed by it. */
  script(text: string, file: string, scope: Scope): void {
    if (text.length > SCRIPT_MAX_BYTES) {
      this.#host.unresolved({ file, line: 1 }, `is larger than ${SCRIPT_MAX_BYTES / 1024} KiB and was not read`);
      return;
    }
    this.#parsedBytes += text.length;
    if (this.#parsedBytes > PARSED_MAX_BYTES) {
      this.#host.unresolved({ file, line: 1 }, "the scripts together are longer than is followed");
      return;
    }
    const root = this.#host.parser.parse(text);
    this.#statements(root, file, scope);
  }

  #statements(node: Node, file: string, scope: Scope): void {
    for (const child of childrenOf(node)) this.#statement(child.node, file, scope);
  }

  #statement(node: Node, file: string, scope: Scope): void {
    if (scope.isOver) return;
    this.#nodes += 1;
    if (this.#nodes > NODES_MAX || this.#depth > DEPTH_MAX) {
      if (this.#nodes === NODES_MAX + 1 || this.#depth === DEPTH_MAX + 1)
        this.#host.unresolved({ file, line: lineOf(node) }, "the script goes on further than is followed");
      return;
    }
    this.#depth += 1;
    this.#follow(node, file, scope);
    this.#depth -= 1;
  }

  readonly #kinds: Readonly<Record<string, (node: Node, file: string, scope: Scope) => void>> = {
    command: (node, file, scope) => this.#command(node, file, scope),
    variable_assignment: (node, file, scope) => this.#assign(node, file, scope),
    declaration_command: (node, file, scope) => this.#declare(node, file, scope),
    if_statement: (node, file, scope) => this.#if(node, file, scope),
    case_statement: (node, file, scope) => this.#case(node, file, scope),
    for_statement: (node, file, scope) => this.#for(node, file, scope),
    while_statement: (node, file, scope) => this.#loop(node, file, scope),
    c_style_for_statement: (node, file, scope) => this.#loop(node, file, scope),
    function_definition: (node, file, scope) => this.#define(node, file, scope),
    list: (node, file, scope) => this.#list(node, file, scope),
    pipeline: (node, file, scope) => {
      for (const { node: child } of childrenOf(node)) this.#statement(child, file, scope.fork());
    },
    subshell: (node, file, scope) => this.#statements(node, file, scope.fork()),
    redirected_statement: (node, file, scope) => this.#redirected(node, file, scope),
    test_command: (node, file, scope) => void this.#test(node, file, scope),
    ERROR: (node, file, scope) => {
      this.#host.unresolved({ file, line: lineOf(node) }, `is not understood: \`${node.text.slice(0, 80)}\``);
      this.#statements(node, file, scope);
    },
    comment: () => {},
    heredoc_redirect: () => {},
    file_redirect: () => {},
    unset_command: (node, _, scope) => this.#unset(node, scope),
  };

  #follow(node: Node, file: string, scope: Scope): void {
    const follow = Object.hasOwn(this.#kinds, node.type) ? this.#kinds[node.type] : undefined;
    if (follow) follow(node, file, scope);
    else this.#statements(node, file, scope);
  }

  #declare(node: Node, file: string, scope: Scope): void {
    const frame = /^(local|declare|typeset)\b/.test(node.text) ? this.#locals.at(-1) : undefined;
    for (const { node: child } of childrenOf(node)) {
      const name = child.type === "variable_assignment" ? inField(child, "name")[0]?.text : child.text;
      if (frame && name !== undefined && !frame.has(name)) frame.set(name, scope.get(name));
      if (child.type === "variable_assignment") this.#assign(child, file, scope);
    }
  }

  #unset(node: Node, scope: Scope): void {
    for (const { node: child } of childrenOf(node)) scope.vars.set(child.text, [""]);
  }

  #define(node: Node, file: string, scope: Scope): void {
    const [name, body] = [inField(node, "name")[0], inField(node, "body")[0]];
    if (name && body) scope.functions.set(name.text, { body, file });
  }

  #context(file: string, scope: Scope): WordContext {
    return { scope, image: this.#host.image, substitute: (node) => this.#substitute(node, file, scope) };
  }

  /** Runs what stands in `$(…)`; its answer is known for `command -v` and `which` only. */
  #substitute(node: Node, file: string, scope: Scope): Value {
    this.#statements(node, file, scope.fork());
    const [only, ...others] = childrenOf(node);
    if (only?.node.type !== "command" || others.length > 0 || scope.get("PATH")?.length !== 1) return undefined;
    const lists = wordLists(
      childrenOf(only.node).map((child) => child.node),
      this.#context(file, scope),
    );
    const names = lists.map((words) => (/^(command -v|which) \S+$/.test(words.join(" ")) ? words.at(-1) : undefined));
    if (names.some((name) => name === undefined)) return undefined;
    return oneOf(names.map((name) => findProgram(this.#host.image, name ?? "", scope) ?? ""));
  }

  #assign(node: Node, file: string, scope: Scope): void {
    const [name, value] = [inField(node, "name")[0], inField(node, "value")[0]];
    if (!name) return;
    const given = value ? wordValue(value, this.#context(file, scope)) : [""];
    const isAppended = operatorsOf(node).includes("+=");
    const before = isAppended ? scope.get(name.text) : [""];
    scope.vars.set(name.text, before && given && oneOf(before.flatMap((a) => given.map((b) => a + b))));
  }

  #command(node: Node, file: string, scope: Scope): void {
    const place = { file, line: lineOf(node) };
    const children = childrenOf(node);
    const own = scope.fork();
    for (const { node: child } of children) if (child.type === "variable_assignment") this.#assign(child, file, own);
    for (const { node: child } of children) if (child.type.endsWith("_redirect")) this.#redirect(child, file, scope);
    const words = children.filter(({ field }) => field === "name" || field === "argument").map((child) => child.node);
    if (words.length === 0) {
      for (const [name, value] of own.vars) scope.vars.set(name, value);
      return;
    }
    const ways = wordLists(words, this.#context(file, scope)).map((list) => {
      const way = scope.fork();
      this.call(list, way, place, own);
      return way;
    });
    scope.join(ways);
  }

  /** One call of a command with its words. `environment` is what stands before it. */
  call(words: Words, scope: Scope, place: Place, environment: Scope = scope): void {
    const [name, ...args] = words;
    if (words.length === 0) return;
    const body = name === undefined ? undefined : scope.functions.get(name);
    const own = name !== undefined && Object.hasOwn(this.#commands, name) ? this.#commands[name] : undefined;
    if (name === undefined) this.#host.unresolved(place, "runs a command whose name cannot be told");
    else if (body) this.#callFunction(body, args, scope);
    else if (own) own(args, scope, place, environment);
    else if (!BUILTINS.has(name)) this.#host.run(words, environment, place, false);
  }

  /** Commands of the shell that run something else, or change what it knows. */
  readonly #commands: Readonly<Record<string, (args: Words, scope: Scope, place: Place, environment: Scope) => void>> =
    {
      exec: (args, scope, place, environment) => this.#exec(args, scope, place, environment),
      exit: (_, scope) => {
        scope.ending = "exit";
      },
      return: (_, scope) => {
        scope.ending = "return";
      },
      command: (args, scope, place, environment) => this.#builtin(args, scope, place, environment),
      builtin: (args, scope, place, environment) => this.#builtin(args, scope, place, environment),
      ".": (args, scope, place) => this.#source(args, scope, place),
      source: (args, scope, place) => this.#source(args, scope, place),
      eval: (args, scope, place) => this.#eval(args, scope, place),
      trap: (args, scope, place) => {
        const [action] = args;
        if (action !== undefined && args.length > 1 && action !== "-" && action !== "")
          this.script(action, `${place.file} (trap)`, scope.fork());
      },
      cd: ([path], scope) => {
        const full = path === undefined || path === "-" ? undefined : absolutePath(path, scope);
        scope.vars.set("PWD", full === undefined ? undefined : [full]);
      },
      set: (args, scope) => this.#set(args, scope),
      shift: ([count], scope) => {
        scope.args = scope.args.map((list) => list.slice(Number(count ?? 1) || 1));
      },
      read: (args, scope) => {
        for (const arg of args) if (arg !== undefined && !arg.startsWith("-")) scope.vars.set(arg, undefined);
      },
    };

  #builtin(args: Words, scope: Scope, place: Place, environment: Scope): void {
    if (args[0] === "-v" || args[0] === "-V") return;
    this.call(args[0] === "-p" ? args.slice(1) : args, scope, place, environment);
  }

  #callFunction({ body, file }: { body: Node; file: string }, args: Words, scope: Scope): void {
    const before = scope.args;
    scope.args = [args];
    this.#locals.push(new Map());
    this.#statement(body, file, scope);
    scope.resume();
    scope.args = before;
    for (const [name, value] of this.#locals.pop() ?? []) scope.vars.set(name, value);
  }

  #exec(args: Words, scope: Scope, place: Place, environment: Scope): void {
    let at = 0;
    while (args[at]?.startsWith("-")) at += args[at] === "-a" ? 2 : 1;
    const rest = args.slice(at);
    // With redirections alone the script goes on.
    if (rest.length === 0) return;
    if (rest[0] === undefined) this.#host.unresolved(place, "exec of a program whose name cannot be told");
    else this.#host.run(rest, environment, place, true);
    scope.ending = "exit";
  }

  #source([path]: Words, scope: Scope, place: Place): void {
    if (path === undefined) {
      this.#host.unresolved(place, "sources a file whose name cannot be told");
      return;
    }
    const full = absolutePath(path, scope);
    const file = full === undefined ? undefined : this.#host.image.read(full, SCRIPT_MAX_BYTES + 1);
    if (!file) {
      this.#host.unresolved(place, `sources \`${path}\`, which is not in the image`);
      return;
    }
    if (this.#sourced.includes(file.path)) {
      this.#host.unresolved(place, `sources \`${file.path}\` in a circle`);
      return;
    }
    this.#host.readFile(file.path);
    this.#sourced.push(file.path);
    this.script(file.bytes.toString("utf8"), file.path, scope);
    scope.resume();
    this.#sourced.pop();
  }

  #eval(args: Words, scope: Scope, place: Place): void {
    if (args.some((arg) => arg === undefined)) this.#host.unresolved(place, "eval of a text that cannot be told");
    else this.script(args.join(" "), `${place.file} (eval)`, scope);
  }

  #set(args: Words, scope: Scope): void {
    const at = args.indexOf("--");
    if (at >= 0) scope.args = [args.slice(at + 1)];
    else if (args[0] !== undefined && !/^[-+]/.test(args[0])) scope.args = [args];
  }

  #if(node: Node, file: string, scope: Scope): void {
    const ways: Scope[] = [];
    let rest: Scope | undefined = scope.fork();
    const branch = (part: Node): void => {
      if (!rest) return;
      const { condition, body } = clauseOf(part);
      const verdict = this.#condition(condition, file, rest);
      const way = rest.fork();
      if (verdict !== false) {
        for (const child of body) this.#statement(child, file, way);
        ways.push(way);
      }
      if (verdict === true) rest = undefined;
    };
    branch(node);
    for (const { node: child } of childrenOf(node)) {
      if (child.type === "elif_clause") branch(child);
      if (child.type === "else_clause" && rest) {
        this.#statements(child, file, rest);
        ways.push(rest);
        rest = undefined;
      }
    }
    if (rest) ways.push(rest);
    scope.join(ways);
  }

  /** Whether a condition holds; undefined where it cannot be told. Commands in it run. */
  #condition(nodes: readonly Node[], file: string, scope: Scope): boolean | undefined {
    let verdict: boolean | undefined;
    for (const node of nodes) verdict = this.#verdict(node, file, scope);
    return verdict;
  }

  #verdict(node: Node, file: string, scope: Scope): boolean | undefined {
    if (node.type === "test_command") return this.#test(node, file, scope);
    if (node.type === "negated_command") {
      const [inner] = childrenOf(node);
      const verdict = inner && this.#verdict(inner.node, file, scope);
      return verdict === undefined ? undefined : !verdict;
    }
    if (node.type === "list") {
      const [a, b] = childrenOf(node).map((child) => this.#verdict(child.node, file, scope));
      return combine(operatorsOf(node).find((text) => text === "&&" || text === "||") ?? "", a, b);
    }
    const found = /^command\s+-v\s+([\w.-]+)(\s*>.*)?$|^which\s+([\w.-]+)(\s*>.*)?$/.exec(node.text);
    const name = found?.[1] ?? found?.[3];
    if (name !== undefined) return findProgram(this.#host.image, name, scope) !== undefined;
    if (node.text === "true" || node.text === ":") return true;
    if (node.text === "false") return false;
    this.#statement(node, file, scope);
    return undefined;
  }

  #test(node: Node, file: string, scope: Scope): boolean | undefined {
    const [inner] = childrenOf(node);
    return inner && this.#expression(inner.node, file, scope);
  }

  #expression(node: Node, file: string, scope: Scope): boolean | undefined {
    const children = childrenOf(node);
    if (node.type === "parenthesized_expression") return children[0] && this.#expression(children[0].node, file, scope);
    if (node.type === "unary_expression") return this.#unary(node, file, scope);
    if (node.type !== "binary_expression") {
      const value = wordValue(node, this.#context(file, scope));
      return agreed(value?.map((text) => text !== ""));
    }
    const [left, right] = [inField(node, "left")[0], inField(node, "right")[0]];
    const operator = inField(node, "operator")[0]?.text ?? operatorsOf(node)[0] ?? "";
    if (!left || !right) return undefined;
    if (["-a", "-o", "&&", "||"].includes(operator)) {
      const way = operator === "-a" || operator === "&&" ? "&&" : "||";
      return combine(way, this.#expression(left, file, scope), this.#expression(right, file, scope));
    }
    const context = this.#context(file, scope);
    const [a, b] = [wordValue(left, context), wordValue(right, context)];
    if (!a || !b || !["=", "==", "!="].includes(operator)) return undefined;
    const isPattern = operatorsOf(node.parent ?? node).includes("[[") && right.type === "extglob_pattern";
    const same = (x: string, y: string) => (isPattern ? compilePattern(y).matches(x) : x === y);
    return agreed(a.flatMap((x) => b.map((y) => same(x, y) === (operator !== "!="))));
  }

  #unary(node: Node, file: string, scope: Scope): boolean | undefined {
    const operator = node.text.match(/^(!|-\w)/)?.[1];
    const inner = childrenOf(node).filter(({ node: child }) => child.type !== "test_operator")[0]?.node;
    if (!inner) return undefined;
    if (operator === "!") {
      const verdict = this.#expression(inner, file, scope);
      return verdict === undefined ? undefined : !verdict;
    }
    const value = wordValue(inner, this.#context(file, scope));
    if (operator === "-z") return agreed(value?.map((text) => text === ""));
    // Whether a file is there may change while the container runs: both ways are followed.
    return operator === "-n" ? agreed(value?.map((text) => text !== "")) : undefined;
  }

  #case(node: Node, file: string, scope: Scope): void {
    const subject = inField(node, "value")[0];
    const value = subject && wordValue(subject, this.#context(file, scope));
    const items = childrenOf(node).filter(({ node: child }) => child.type === "case_item");
    const ways: Scope[] = [];
    let left: Value = value;
    for (const { node: item } of items) {
      const patterns = inField(item, "value").map((pattern) => compilePattern(pattern.text.replaceAll(/["'\\]/g, "")));
      const isOdd = inField(item, "value").some((pattern) => /[?[$(]/.test(pattern.text));
      const matches = (text: string) => isOdd || patterns.some((pattern) => pattern.matches(text));
      if (left && !left.some(matches)) continue;
      const way = scope.fork();
      for (const { field, node: child } of childrenOf(item)) if (field !== "value") this.#statement(child, file, way);
      ways.push(way);
      left = isOdd ? left : left?.filter((text) => !matches(text));
    }
    if (!left || left.length > 0) ways.push(scope.fork());
    scope.join(ways);
  }

  #for(node: Node, file: string, scope: Scope): void {
    const name = inField(node, "variable")[0]?.text;
    const lists = wordLists(inField(node, "value"), this.#context(file, scope));
    const body = inField(node, "body")[0];
    if (name === undefined || !body) return;
    const words = lists.flat();
    const values = words.every((word) => word !== undefined) ? ([...new Set(words)] as string[]) : undefined;
    const before = scope.fork();
    const way = scope.fork();
    // Each value by itself, one round behind the other: what one round runs is not what another does.
    for (const value of values ?? [undefined]) {
      way.vars.set(name, value === undefined ? undefined : [value]);
      this.#statement(body, file, way);
    }
    scope.join([before, way]);
  }

  #loop(node: Node, file: string, scope: Scope): void {
    const body = inField(node, "body")[0];
    for (let round = 0; round < ROUNDS; round += 1) {
      const way = scope.fork();
      this.#condition(inField(node, "condition"), file, way);
      if (body) this.#statement(body, file, way);
      scope.join([scope.fork(), way]);
    }
  }

  /** `a && b`: what stands behind may not be run. */
  #list(node: Node, file: string, scope: Scope): void {
    const [a, b] = childrenOf(node);
    const operator = operatorsOf(node).find((text) => text === "&&" || text === "||");
    if (!a || !b) {
      this.#statements(node, file, scope);
      return;
    }
    const verdict = this.#verdict(a.node, file, scope);
    if (scope.isOver || (verdict !== undefined && verdict !== (operator === "&&"))) return;
    const way = scope.fork();
    this.#statement(b.node, file, way);
    scope.join(verdict === undefined ? [scope.fork(), way] : [way]);
  }

  /** A here-document that a shell is given is a script too. */
  #redirected(node: Node, file: string, scope: Scope): void {
    const body = inField(node, "body")[0];
    if (body) this.#statement(body, file, scope);
    for (const redirect of inField(node, "redirect")) this.#redirect(redirect, file, scope);
    const command = body?.type === "command" ? inField(body, "name")[0]?.text : undefined;
    const heredoc = inField(node, "redirect").find(({ type }) => type === "heredoc_redirect");
    const text = heredoc && childrenOf(heredoc).find(({ node: child }) => child.type === "heredoc_body")?.node.text;
    if (text !== undefined && command !== undefined && /^(.*\/)?(ba|da|a)?sh$/.test(command))
      this.script(text, `${file} (here-document)`, scope.fork());
  }

  /** What is substituted in a redirection or a here-document runs. */
  #redirect(node: Node, file: string, scope: Scope): void {
    for (const { node: child } of childrenOf(node)) {
      if (child.type === "command_substitution" || child.type === "process_substitution")
        this.#substitute(child, file, scope);
      else if (child.type !== "heredoc_content") this.#redirect(child, file, scope);
    }
  }
}

const CLAUSES = new Set(["elif_clause", "else_clause"]);

/** What stands before and behind `then`. */
function clauseOf(node: Node): { readonly condition: readonly Node[]; readonly body: readonly Node[] } {
  const then = node.children.find((child) => child?.type === "then")?.startIndex ?? node.endIndex;
  const parts = childrenOf(node).map((child) => child.node);
  return {
    condition: parts.filter((part) => part.startIndex < then),
    body: parts.filter((part) => part.startIndex > then && !CLAUSES.has(part.type)),
  };
}

function agreed(verdicts: readonly boolean[] | undefined): boolean | undefined {
  const [first, ...others] = verdicts ?? [];
  return others.every((verdict) => verdict === first) ? first : undefined;
}

function combine(operator: string, a: boolean | undefined, b: boolean | undefined): boolean | undefined {
  const decisive = operator === "||";
  if (a === decisive || b === decisive) return decisive;
  return a === undefined || b === undefined ? undefined : !decisive;
}

/** A path from the working directory on, with `.` and `..` taken out; undefined where nobody can tell where that is. */
export function absolutePath(path: string, scope: Scope): string | undefined {
  const [directory, ...others] = path.startsWith("/") ? [""] : (scope.get("PWD") ?? []);
  if (directory === undefined || others.length > 0) return undefined;
  return posix.normalize(`${directory}/${path}`);
}

/** The path of a program, looked for as a shell does it; undefined where the image has none, or the PATH is not known. */
export function findProgram(image: ImageFiles, name: string, scope: Scope): string | undefined {
  const isProgram = (path: string) => image.read(path, 0)?.isExecutable === true;
  if (name.includes("/")) {
    const path = absolutePath(name, scope);
    return path !== undefined && isProgram(path) ? path : undefined;
  }
  const [path, ...others] = scope.get("PATH") ?? [];
  if (path === undefined || others.length > 0) return undefined;
  return path
    .split(":")
    .map((folder) => `${folder}/${name}`)
    .find(isProgram);
}
