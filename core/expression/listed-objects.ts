import type { Expr, Expr_Call } from "@bufbuild/cel-spec/cel/expr/syntax_pb.js";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";

/** An object that a rule's lists could name as well, and that the kernel therefore knows by itself. */
export interface ListedObject {
  readonly section: Section;
  readonly kind: "process" | "address" | "listening_port" | "domain" | "path" | "syscall";
  readonly text: string;
}

/** Kind of object by method. */
const METHODS: Readonly<Record<string, readonly [Section, ListedObject["kind"]]>> = {
  runs: [Section.PROCESS, "process"],
  reaches: [Section.NETWORK, "address"],
  touches: [Section.FILESYSTEM, "path"],
};

/** Kind of object by field of an event, where it is compared with something written out. */
const FIELDS: Readonly<Record<string, readonly [Section, ListedObject["kind"]]>> = {
  "listen.port": [Section.NETWORK, "listening_port"],
  "dns_query.name": [Section.DNS, "domain"],
  "syscall_use.name": [Section.SYSCALL, "syscall"],
};

/** The field that an expression reads, for example `listen.port`; undefined where it reads something else. */
function fieldOf(expr: Expr | undefined): string | undefined {
  const path: string[] = [];
  let at = expr;
  while (at?.exprKind.case === "selectExpr" && !at.exprKind.value.testOnly) {
    path.unshift(at.exprKind.value.field);
    at = at.exprKind.value.operand;
  }
  const isEvent = at?.exprKind.case === "identExpr" && at.exprKind.value.name === "event";
  return isEvent ? path.join(".") : undefined;
}

function constantOf(expr: Expr | undefined): string | undefined {
  const kind = expr?.exprKind.case === "constExpr" ? expr.exprKind.value.constantKind : undefined;
  if (kind?.case === "stringValue") return kind.value;
  return kind?.case === "int64Value" || kind?.case === "uint64Value" ? String(kind.value) : undefined;
}

function compared(field: Expr | undefined, values: readonly (Expr | undefined)[]): ListedObject[] | undefined {
  const known = FIELDS[fieldOf(field) ?? ""];
  if (!known) return undefined;
  const [section, kind] = known;
  const objects = values.flatMap((value) => {
    const text = constantOf(value);
    return text === undefined ? [] : [{ section, kind, text }];
  });
  return objects.length === values.length ? objects : undefined;
}

function ofMethod({ function: name, target, args }: Expr_Call): ListedObject[] | undefined {
  const text = constantOf(args[0]);
  if (text === undefined) return undefined;
  if (name === "endsWith" && fieldOf(target) === "dns_query.name" && /^\.[^*]+$/.test(text)) {
    return [{ section: Section.DNS, kind: "domain", text: `*${text}` }];
  }
  const known = METHODS[name];
  return known && [{ section: known[0], kind: known[1], text }];
}

function ofCall(call: Expr_Call): ListedObject[] | undefined {
  const [left, right] = call.args;
  switch (call.function) {
    case "_||_": {
      const both = [objectsOf(left), objectsOf(right)];
      return both.every((each) => each !== undefined) ? both.flat() : undefined;
    }
    case "_==_":
      return compared(left, [right]) ?? compared(right, [left]);
    case "@in":
      return right?.exprKind.case === "listExpr" ? compared(left, right.exprKind.value.elements) : undefined;
    default:
      return ofMethod(call);
  }
}

/**
 * The objects that an expression comes down to: it is true for exactly those that a list with them would name. Undefined
 * where it asks for more than that.
 */
export function objectsOf(expr: Expr | undefined): ListedObject[] | undefined {
  return expr?.exprKind.case === "callExpr" ? ofCall(expr.exprKind.value) : undefined;
}
