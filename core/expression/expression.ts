import { type CelEnv, isCelError, parse, plan } from "@bufbuild/cel";
import { ConstantSchema, type Expr, type ParsedExpr } from "@bufbuild/cel-spec/cel/expr/syntax_pb.js";
import { create, type DescMessage } from "@bufbuild/protobuf";
import { type Event, EventSchema } from "#gen/gabion/event/v1/event_pb.ts";
import { type Container, ContainerSchema } from "#gen/gabion/workload/v1/workload_pb.ts";
import { parsePrefix } from "../matching/address.ts";
import { type EventKind, judgedKinds } from "../policy/event-section.ts";
import { Checker, type ExpressionFault } from "./check.ts";
import { createEnvironment, enumNumbers } from "./environment.ts";
import { type ListedObject, objectsOf } from "./listed-objects.ts";
import { BOOL, type CelTypeOf, INT, typeText } from "./types.ts";

/** Units that one expression may cost at most: about ten milliseconds, were all lists and texts as long as they may be. */
export const COST_MAX = 20_000;

/** Whether an expression is true, or why that cannot be told. */
export type Truth = boolean | { readonly error: string };

/** An expression over an event and its container, ready to be asked. */
export interface Expression {
  /** Kinds of events that it is asked about: those that it names, or all where it names none. */
  readonly kinds: ReadonlySet<EventKind>;
  /** Units that one evaluation costs at most. */
  readonly cost: number;
  /** Objects that it comes down to, where it asks for nothing else. */
  readonly objects: readonly ListedObject[] | undefined;
  readonly isTrue: (event: Event, container: Container) => Truth;
}

export type CompiledExpression =
  | { readonly expression: Expression; readonly faults?: undefined }
  | { readonly faults: readonly ExpressionFault[] };

/** What one language has, made once: types, functions and the names of numbers. */
export class ExpressionLanguage {
  readonly #env: CelEnv = createEnvironment();
  readonly #enums = enumNumbers();
  readonly #scope: ReadonlyMap<string, CelTypeOf>;

  constructor() {
    const message = (desc: DescMessage): CelTypeOf => ({ kind: "message", desc });
    const enums = [...this.#enums.keys()].map((name) => [name, INT] as const);
    this.#scope = new Map([["event", message(EventSchema)], ["container", message(ContainerSchema)], ...enums]);
  }

  /** Reads and checks an expression: all faults are told, with their places. */
  compile(text: string): CompiledExpression {
    const parsed = parsedOf(text);
    if ("faults" in parsed) return parsed;
    const checker = new Checker();
    const { type, cost } = checker.check(parsed.expr, this.#scope);
    const found = [...checker.faults, ...this.#literalFaults(checker)].map(({ id, message }) => ({
      ...placeOf(text, parsed.sourceInfo?.positions[String(id)] ?? 0),
      message,
    }));
    const whole = found.length > 0 ? [] : wholeFaults(type, cost, checker.kinds);
    if (found.length + whole.length > 0) return { faults: [...found, ...whole] };
    const objects = objectsOf(parsed.expr);
    const kinds = judgedKinds().filter((kind) => checker.kinds.size === 0 || checker.kinds.has(kind));
    this.#nameNumbers(checker.idents);
    const run = plan(this.#env, parsed);
    const isTrue = (event: Event, container: Container): Truth => {
      const answer = run({ event, container } as Parameters<typeof run>[0]);
      return isCelError(answer) ? { error: answer.message } : answer === true;
    };
    return { expression: { kinds: new Set(kinds), cost, objects, isTrue } };
  }

  #literalFaults({ literals }: Checker): { id: bigint; message: string }[] {
    return literals.flatMap(({ id, method, text }) => {
      const message = method === "matches" ? this.#regexFault(text) : literalFault(method, text);
      return message === undefined ? [] : [{ id, message }];
    });
  }

  #regexFault(text: string): string | undefined {
    const answer = plan(this.#env, parse(`"".matches(${JSON.stringify(text)})`))({} as never);
    return isCelError(answer) ? `\`${text}\` is no RE2 expression: ${answer.message}` : undefined;
  }

  /** The library knows the numbers of enumerations by number only: names are replaced where they stand. */
  #nameNumbers(idents: readonly Expr[]): void {
    for (const ident of idents) {
      const number = ident.exprKind.case === "identExpr" ? this.#enums.get(ident.exprKind.value.name) : undefined;
      if (number === undefined) continue;
      const constantKind = { case: "int64Value", value: BigInt(number) } as const;
      ident.exprKind = { case: "constExpr", value: create(ConstantSchema, { constantKind }) };
    }
  }
}

function literalFault(method: string, text: string): string | undefined {
  if (method === "reaches") {
    return parsePrefix(text) ? undefined : `\`${text}\` must be an address or a prefix such as \`10.0.0.0/8\``;
  }
  const isFit = /^[/*]/.test(text) || (method === "runs" && !text.includes("/"));
  const name = method === "runs" ? ", or be a name without a slash" : "";
  return isFit ? undefined : `\`${text}\` must begin with \`/\` or \`*\`${name}`;
}

function wholeFaults(type: CelTypeOf, cost: number, kinds: ReadonlySet<string>): ExpressionFault[] {
  const at = { line: 1, column: 1 };
  const faults: ExpressionFault[] = [];
  if (type.kind !== BOOL.kind) faults.push({ ...at, message: `must be true or false, and is ${typeText(type)}` });
  if (cost > COST_MAX) {
    const message = `may cost ${cost} units, and ${COST_MAX} are the limit: leave out a list within a list`;
    faults.push({ ...at, message });
  }
  if (kinds.has("exit")) faults.push({ ...at, message: "the end of a process is told and never judged" });
  return faults;
}

/** Line and column of an offset, both from 1. */
function placeOf(text: string, offset: number): { readonly line: number; readonly column: number } {
  const before = text.slice(0, offset).split("\n");
  return { line: before.length, column: (before.at(-1)?.length ?? 0) + 1 };
}

interface ParseFault {
  readonly message: string;
  readonly location?: { readonly start?: { readonly line: number; readonly column: number } };
}

function parsedOf(text: string): (ParsedExpr & { expr: Expr }) | { readonly faults: ExpressionFault[] } {
  try {
    return parse(text);
  } catch (error) {
    const { message, location } = error as ParseFault;
    const { line = 1, column = 1 } = location?.start ?? {};
    return { faults: [{ line, column, message: message.replace(/^<input>:\d+:\d+: /, "") }] };
  }
}
