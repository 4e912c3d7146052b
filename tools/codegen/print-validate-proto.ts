/**
 * Prints `buf/validate/validate.proto` from the descriptor that `@bufbuild/protovalidate` ships, so that buf can
 * resolve the import without a schema registry. Predefined CEL options are left out: the validator has its own.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { DescEnum, DescExtension, DescField, DescMessage } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import { file_buf_validate_validate as file } from "@bufbuild/protovalidate/gen/buf/validate/validate_pb.js";

function typeName(field: DescField | DescExtension): string {
  if (field.fieldKind === "map") {
    const value =
      field.mapKind === "scalar"
        ? ScalarType[field.scalar].toLowerCase()
        : `.${(field.message ?? field.enum)?.typeName}`;
    return `map<${ScalarType[field.mapKey].toLowerCase()}, ${value}>`;
  }
  if (field.message) return `.${field.message.typeName}`;
  if (field.enum) return `.${field.enum.typeName}`;
  return ScalarType[field.scalar as ScalarType].toLowerCase();
}

function printField(field: DescField | DescExtension, isInOneof: boolean): string {
  const label = field.fieldKind === "map" || isInOneof ? "" : field.fieldKind === "list" ? "repeated " : "optional ";
  return `${label}${typeName(field)} ${field.name} = ${field.number};`;
}

function printEnum(desc: DescEnum): string {
  const alias = desc.proto.options?.allowAlias === true ? ["option allow_alias = true;"] : [];
  return [`enum ${desc.name} {`, ...alias, ...desc.values.map((v) => `${v.name} = ${v.number};`), "}"].join("\n");
}

function printMessage(desc: DescMessage): string {
  const lines = [`message ${desc.name} {`];
  for (const member of desc.members) {
    if (member.kind === "field") lines.push(printField(member, false));
    else lines.push(`oneof ${member.name} {`, ...member.fields.map((f) => printField(f, true)), "}");
  }
  for (const range of desc.proto.extensionRange) lines.push(`extensions ${range.start} to ${rangeEnd(range.end)};`);
  lines.push(...desc.nestedEnums.map(printEnum), ...desc.nestedMessages.map(printMessage), "}");
  return lines.join("\n");
}

function rangeEnd(exclusiveEnd: number): string {
  return exclusiveEnd > 536870911 ? "max" : String(exclusiveEnd - 1);
}

const text = [
  'syntax = "proto2";',
  `package ${file.proto.package};`,
  ...file.dependencies.map((d) => `import "${d.proto.name}";`),
  ...file.enums.map(printEnum),
  ...file.messages.map(printMessage),
  ...file.extensions.map((e) => `extend .${e.extendee.typeName} { ${printField(e, false)} }`),
].join("\n");
const target = join(import.meta.dirname, "../../.cache/validate/buf/validate/validate.proto");
mkdirSync(dirname(target), { recursive: true });
writeFileSync(target, `${text}\n`);
