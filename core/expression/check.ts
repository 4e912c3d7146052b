import type { Expr, Expr_Comprehension, Expr_Select } from "@bufbuild/cel-spec/cel/expr/syntax_pb.js";
import { FUNCTIONS, listOf } from "./functions.ts";
import { areComparable, BOOL, type CelTypeOf, DYN, fieldType, INT, typeText } from "./types.ts";

/** Something wrong in an expression, with its place in the text. */
export interface ExpressionFault {
  /** From 1. */
  readonly line: number;
  /** From 1. */
  readonly column: number;
  readonly message: string;
}

/** What is known of a part of an expression before it runs. */
interface Checked {
  readonly type: CelTypeOf;
  /** Units at most. */
  readonly cost: number;
}

type Scope = ReadonlyMap<string, CelTypeOf>;

const NAMES_SHOWN = 12;

/** Field names of a message, those alike first. */
function namesLike(names: readonly string[], wanted: string): string {
  const begin = wanted.slice(0, 3).toLowerCase();
  const sorted = [...names].sort((a, b) => Number(b.startsWith(begin)) - Number(a.startsWith(begin)));
  return sorted
    .slice(0, NAMES_SHOWN)
    .map((name) => `\`${name}\``)
    .join(", ");
}

/**
 * Types and costs of a parsed expression. The library that runs expressions knows types at run time only; a rule that
 * can never be true for a slip of the pen must be refused when it is saved.
 */
export class Checker {
  readonly faults: { readonly id: bigint; readonly message: string }[] = [];
  /** Fields of `event.kind` that the expression names. */
  readonly kinds = new Set<string>();
  /** Names that stand alone. */
  readonly idents: Expr[] = [];
  /** What methods with a text of their own were given, for further checks. */
  readonly literals: { readonly id: bigint; readonly method: string; readonly text: string }[] = [];

  check(expr: Expr | undefined, scope: Scope): Checked {
    const kind = expr?.exprKind;
    switch (kind?.case) {
      case "constExpr":
        return { type: constantType(kind.value.constantKind.case), cost: 0 };
      case "identExpr":
        return this.#ident(expr as Expr, kind.value.name, scope);
      case "selectExpr":
        return this.#select(expr as Expr, kind.value, scope);
      case "callExpr": {
        const args = [...(kind.value.target ? [kind.value.target] : []), ...kind.value.args];
        return this.#call(expr as Expr, kind.value.function, args, scope);
      }
      case "listExpr": {
        const elements = kind.value.elements.map((element) => this.check(element, scope));
        const cost = elements.reduce((sum, element) => sum + element.cost, 1);
        return { type: listOf(elements.map(({ type }) => type)), cost };
      }
      case "comprehensionExpr":
        return this.#comprehension(kind.value, scope);
      default:
        return this.#fault(expr?.id ?? 0n, "maps and messages cannot be made here: compare single fields");
    }
  }

  #fault(id: bigint, message: string): Checked {
    this.faults.push({ id, message });
    return { type: DYN, cost: 1 };
  }

  #ident(expr: Expr, name: string, scope: Scope): Checked {
    const { id } = expr;
    const type = scope.get(name);
    this.idents.push(expr);
    if (type) return { type, cost: 1 };
    return this.#fault(id, `\`${name}\` is not known here: there are ${namesLike([...scope.keys()], name)}`);
  }

  #select({ id }: Expr, { operand, field, testOnly }: Expr_Select, scope: Scope): Checked {
    const of = this.check(operand, scope);
    const cost = of.cost + 1;
    if (of.type.kind === "dyn") return { type: testOnly ? BOOL : DYN, cost };
    if (of.type.kind === "map") return { type: testOnly ? BOOL : of.type.value, cost };
    if (of.type.kind !== "message") return this.#fault(id, `${typeText(of.type)} has no fields, so no \`${field}\``);
    const { desc } = of.type;
    const found = desc.fields.find(({ name }) => name === field);
    if (!found) {
      const names = namesLike(
        desc.fields.map(({ name }) => name),
        field,
      );
      return this.#fault(id, `\`${field}\` is no field of ${desc.typeName}: there are ${names}`);
    }
    if (found.oneof?.name === "kind" && desc.typeName === "gabion.event.v1.Event") this.kinds.add(found.localName);
    return { type: testOnly ? BOOL : fieldType(found), cost };
  }

  #call({ id }: Expr, name: string, args: readonly Expr[], scope: Scope): Checked {
    const checked = args.map((arg) => this.check(arg, scope));
    const known = FUNCTIONS.get(name);
    if (!known) return this.#fault(id, `there is no function \`${name}\``);
    const types = checked.map(({ type }) => type);
    const type = known.signature(types);
    if (!type) {
      return this.#fault(id, `\`${known.usage}\` cannot be used with ${types.map(typeText).join(" and ")}`);
    }
    if (known.needsLiteral) this.#literal(id, name, args.at(-1));
    return { type, cost: checked.reduce((sum, { cost }) => sum + cost, known.cost) };
  }

  #literal(id: bigint, method: string, arg: Expr | undefined): void {
    const constant = arg?.exprKind.case === "constExpr" ? arg.exprKind.value.constantKind : undefined;
    if (constant?.case === "stringValue") this.literals.push({ id, method, text: constant.value });
    else this.#fault(id, `\`${method}\` takes a text in quotes, so that it can be checked beforehand`);
  }

  /** What `exists`, `all`, `exists_one`, `filter` and `map` are made of. */
  #comprehension(of: Expr_Comprehension, scope: Scope): Checked {
    const range = this.check(of.iterRange, scope);
    const { element, size } = elementsOf(range.type);
    if (!element) {
      return this.#fault(of.iterRange?.id ?? 0n, `${typeText(range.type)} holds nothing to go through`);
    }
    const init = this.check(of.accuInit, scope);
    const inner = new Map(scope).set(of.iterVar, element).set(of.accuVar, init.type);
    const condition = this.check(of.loopCondition, inner);
    const step = this.check(of.loopStep, inner);
    // As many times as the list may have entries; what `filter` and `map` give is no longer than that.
    const type: CelTypeOf = step.type.kind === "list" ? { ...step.type, size } : step.type;
    if (!areComparable(init.type, step.type)) this.#fault(of.loopStep?.id ?? 0n, "must be true or false");
    const result = this.check(of.result, new Map(scope).set(of.accuVar, type));
    return { type: result.type, cost: range.cost + init.cost + result.cost + size * (condition.cost + step.cost) };
  }
}

function elementsOf(type: CelTypeOf): { element?: CelTypeOf; size: number } {
  if (type.kind === "list") return { element: type.element, size: type.size };
  if (type.kind === "map") return { element: type.key, size: type.size };
  return { size: 0 };
}

function constantType(kind: string | undefined): CelTypeOf {
  switch (kind) {
    case "boolValue":
      return BOOL;
    case "int64Value":
      return INT;
    case "uint64Value":
      return { kind: "uint" };
    case "doubleValue":
      return { kind: "double" };
    case "stringValue":
      return { kind: "string" };
    case "bytesValue":
      return { kind: "bytes" };
    default:
      return { kind: "null" };
  }
}
