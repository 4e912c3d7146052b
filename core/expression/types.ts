import { type DescField, type DescMessage, getOption, hasOption, ScalarType } from "@bufbuild/protobuf";
import { field as fieldRules } from "@bufbuild/protovalidate/gen/buf/validate/validate_pb.js";

/** A type of CEL, as far as events and containers have it. Lists and maps carry the most entries that they may hold. */
export type CelTypeOf =
  | { readonly kind: "bool" | "int" | "uint" | "double" | "string" | "bytes" | "null" | "dyn" }
  | { readonly kind: "timestamp" | "duration" }
  | { readonly kind: "list"; readonly element: CelTypeOf; readonly size: number }
  | { readonly kind: "map"; readonly key: CelTypeOf; readonly value: CelTypeOf; readonly size: number }
  | { readonly kind: "message"; readonly desc: DescMessage };

export type Kind = CelTypeOf["kind"];

export const BOOL: CelTypeOf = { kind: "bool" };
export const INT: CelTypeOf = { kind: "int" };
export const DYN: CelTypeOf = { kind: "dyn" };

/** Entries of a list or map whose field sets no limit of its own. */
const SIZE_MAX = 128;

function scalarType(scalar: ScalarType): CelTypeOf {
  switch (scalar) {
    case ScalarType.BOOL:
      return BOOL;
    case ScalarType.STRING:
      return { kind: "string" };
    case ScalarType.BYTES:
      return { kind: "bytes" };
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT:
      return { kind: "double" };
    case ScalarType.UINT32:
    case ScalarType.UINT64:
    case ScalarType.FIXED32:
    case ScalarType.FIXED64:
      return { kind: "uint" };
    default:
      return INT;
  }
}

function messageType(desc: DescMessage): CelTypeOf {
  if (desc.typeName === "google.protobuf.Timestamp") return { kind: "timestamp" };
  return desc.typeName === "google.protobuf.Duration" ? { kind: "duration" } : { kind: "message", desc };
}

/** Type of one value of a field, whatever holds it. */
function valueType(field: { readonly scalar?: ScalarType | undefined; readonly message?: DescMessage | undefined }) {
  if (field.message) return messageType(field.message);
  return field.scalar === undefined ? INT : scalarType(field.scalar);
}

function sizeOf(field: DescField): number {
  const rules = hasOption(field, fieldRules) ? getOption(field, fieldRules).type : undefined;
  if (rules?.case === "repeated") return Number(rules.value.maxItems) || SIZE_MAX;
  return rules?.case === "map" ? Number(rules.value.maxPairs) || SIZE_MAX : SIZE_MAX;
}

/** Type of a field; enumerations are integers, as CEL has them. */
export function fieldType(field: DescField): CelTypeOf {
  if (field.fieldKind === "list") return { kind: "list", element: valueType(field), size: sizeOf(field) };
  if (field.fieldKind !== "map") return valueType(field);
  return { kind: "map", key: scalarType(field.mapKey), value: valueType(field), size: sizeOf(field) };
}

/** A type as people write it. */
export function typeText(type: CelTypeOf): string {
  if (type.kind === "message") return type.desc.typeName;
  if (type.kind === "list") return `list(${typeText(type.element)})`;
  return type.kind === "map" ? `map(${typeText(type.key)}, ${typeText(type.value)})` : type.kind;
}

export function isNumber({ kind }: CelTypeOf): boolean {
  return kind === "int" || kind === "uint" || kind === "double";
}

/** True where values of both types can be compared: of one type, or both numbers. */
export function areComparable(a: CelTypeOf, b: CelTypeOf): boolean {
  if (a.kind === "dyn" || b.kind === "dyn") return true;
  if (isNumber(a) && isNumber(b)) return true;
  if (a.kind === "message" && b.kind === "message") return a.desc === b.desc;
  const isNullable = (type: CelTypeOf) => type.kind === "message" || type.kind === "null";
  return a.kind === b.kind || (isNullable(a) && isNullable(b));
}
