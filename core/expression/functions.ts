import { areComparable, BOOL, type CelTypeOf, DYN, INT, isNumber, type Kind } from "./types.ts";

/** What a function gives for arguments of these types; undefined where it does not take them. */
type Signature = (args: readonly CelTypeOf[]) => CelTypeOf | undefined;

export interface FunctionOf {
  /** Units of cost of one call, beside its arguments'. */
  readonly cost: number;
  /** How it is called, for people. */
  readonly usage: string;
  /** The target of a method is its first argument. */
  readonly signature: Signature;
  /** True where the last argument must be written out as text, so that it can be checked beforehand. */
  readonly needsLiteral?: true;
}

/** A plain step. One unit is about half a microsecond (`tools/bench/rules.ts`). */
const STEP = 1;
/** Texts are looked through: at most 16 KiB, mostly much less. */
const SCAN = 10;
/** A regular expression is run over a text, in time in proportion to it (RE2). */
const MATCH = 100;

const TEXT: CelTypeOf = { kind: "string" };
const ORDERED = new Set<Kind>(["int", "uint", "double", "string", "bytes", "bool", "timestamp", "duration", "dyn"]);

function fixed(kinds: readonly Kind[], result: CelTypeOf): Signature {
  const fits = (type: CelTypeOf, kind: Kind | undefined) => kind === "dyn" || type.kind === "dyn" || type.kind === kind;
  return (args) => (args.length === kinds.length && args.every((type, i) => fits(type, kinds[i])) ? result : undefined);
}

function pair(
  isFit: (a: CelTypeOf, b: CelTypeOf) => boolean,
  result: (a: CelTypeOf, b: CelTypeOf) => CelTypeOf,
): Signature {
  return ([a, b, more]) => (a && b && !more && isFit(a, b) ? result(a, b) : undefined);
}

const isSame = (a: CelTypeOf, b: CelTypeOf) => a.kind === "dyn" || b.kind === "dyn" || a.kind === b.kind;
const arithmetic = pair(
  (a, b) => isSame(a, b) && [a, b].every((t) => isNumber(t) || t.kind === "dyn"),
  (a, b) => (a.kind === "dyn" ? b : a),
);
const comparison = pair(
  (a, b) => areComparable(a, b) && ORDERED.has(a.kind) && ORDERED.has(b.kind),
  () => BOOL,
);
const equality = pair(areComparable, () => BOOL);

function sum(a: CelTypeOf, b: CelTypeOf): CelTypeOf {
  if (a.kind !== "list" || b.kind !== "list") return a.kind === "dyn" ? b : a;
  return { kind: "list", element: a.element.kind === "dyn" ? b.element : a.element, size: a.size + b.size };
}

const addition = pair(
  (a, b) => isSame(a, b) && ["int", "uint", "double", "string", "bytes", "list", "duration", "dyn"].includes(a.kind),
  sum,
);

const membership = pair(
  (a, b) =>
    b.kind === "dyn" ||
    (b.kind === "list" && areComparable(a, b.element)) ||
    (b.kind === "map" && areComparable(a, b.key)),
  () => BOOL,
);

const choice: Signature = ([condition, yes, no]) =>
  condition && yes && no && isSame(condition, BOOL) && isSame(yes, no) ? sum(yes, no) : undefined;

const item: Signature = ([of, at]) => {
  if (!of || !at) return undefined;
  if (of.kind === "list" && (at.kind === "int" || at.kind === "uint")) return of.element;
  return of.kind === "map" && areComparable(of.key, at) ? of.value : undefined;
};

const sizeOf: Signature = ([of, more]) =>
  of && !more && ["string", "bytes", "list", "map", "dyn"].includes(of.kind) ? INT : undefined;

/** A conversion from a number or a text. */
function conversion(result: CelTypeOf): Signature {
  return ([of, more]) =>
    of && !more && (isNumber(of) || isSame(of, TEXT) || of.kind === "bytes") ? result : undefined;
}

function ofMessage(typeName: string, argument: CelTypeOf, result: CelTypeOf): Signature {
  return ([of, text, more]) =>
    of?.kind === "message" && of.desc.typeName === typeName && text && !more && isSame(text, argument)
      ? result
      : undefined;
}

function operator(symbol: string, signature: Signature, cost = STEP): [string, FunctionOf] {
  return [`_${symbol}_`, { cost, usage: `a ${symbol} b`, signature }];
}

const texts = (name: string, cost: number): [string, FunctionOf] => [
  name,
  { cost, usage: `text.${name}(text)`, signature: fixed(["string", "string"], BOOL) },
];

/** The functions that expressions may call: the standard ones that events have a use for, and ours for listed objects. */
export const FUNCTIONS: ReadonlyMap<string, FunctionOf> = new Map([
  operator("==", equality),
  operator("!=", equality),
  operator("<", comparison),
  operator("<=", comparison),
  operator(">", comparison),
  operator(">=", comparison),
  operator("&&", fixed(["bool", "bool"], BOOL)),
  operator("||", fixed(["bool", "bool"], BOOL)),
  operator("+", addition, SCAN),
  operator("-", arithmetic),
  operator("*", arithmetic),
  operator("/", arithmetic),
  operator("%", arithmetic),
  ["!_", { cost: STEP, usage: "!a", signature: fixed(["bool"], BOOL) }],
  ["-_", { cost: STEP, usage: "-a", signature: ([a, more]) => (a && !more && isNumber(a) ? a : undefined) }],
  ["_?_:_", { cost: STEP, usage: "a ? b : c", signature: choice }],
  ["@in", { cost: SCAN, usage: "a in list", signature: membership }],
  ["_[_]", { cost: STEP, usage: "list[0], map[key]", signature: item }],
  ["@not_strictly_false", { cost: 0, usage: "", signature: () => BOOL }],
  ["size", { cost: STEP, usage: "size(text or list)", signature: sizeOf }],
  ["int", { cost: STEP, usage: "int(number or text)", signature: conversion(INT) }],
  ["uint", { cost: STEP, usage: "uint(number or text)", signature: conversion({ kind: "uint" }) }],
  ["string", { cost: SCAN, usage: "string(number)", signature: conversion(TEXT) }],
  texts("startsWith", STEP),
  texts("endsWith", STEP),
  texts("contains", SCAN),
  [
    "matches",
    {
      cost: MATCH,
      usage: 'text.matches("RE2 expression")',
      signature: fixed(["string", "string"], BOOL),
      needsLiteral: true,
    },
  ],
  [
    "runs",
    {
      cost: SCAN,
      usage: 'event.exec.runs("/usr/bin/*")',
      signature: ofMessage("gabion.event.v1.ProcessExec", TEXT, BOOL),
      needsLiteral: true,
    },
  ],
  [
    "reaches",
    {
      cost: STEP,
      usage: 'event.connect.reaches("10.0.0.0/8")',
      signature: ofMessage("gabion.event.v1.NetworkConnect", TEXT, BOOL),
      needsLiteral: true,
    },
  ],
  [
    "touches",
    {
      cost: SCAN,
      usage: 'event.file_change.touches("/etc/*")',
      signature: ofMessage("gabion.event.v1.FileChange", TEXT, BOOL),
      needsLiteral: true,
    },
  ],
]);

/** The type that a list written out has. */
export function listOf(elements: readonly CelTypeOf[]): CelTypeOf {
  return { kind: "list", element: elements[0] ?? DYN, size: elements.length };
}
