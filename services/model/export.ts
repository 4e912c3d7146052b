import { fromJson, type JsonValue, toJson } from "@bufbuild/protobuf";
import { createValidator, type Validator } from "@bufbuild/protovalidate";
import { z } from "zod";
import { parsePrefix } from "#core/matching/address.ts";
import { factId, sectionOfFact } from "#core/model/fact.ts";
import { familyFault } from "#core/model/generalise.ts";
import { enumText } from "#core/text/enum-text.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { type Fact, FactSchema, ItemSource, ItemStatus } from "#gen/gabion/model/v1/model_pb.ts";
import { type FieldFault, invalidRequest } from "#lib/rpc/errors.ts";
import { pathText } from "#lib/rpc/server-interceptors.ts";
import { givenItem } from "./items.ts";
import type { GivenFact } from "./operations.ts";
import { ITEMS_MAX, type ModelRecord } from "./record.ts";

const FORMAT = "gabion.model";
const VERSION = 1;

const DOCUMENT = z.strictObject({
  format: z.literal(FORMAT),
  version: z.number().int(),
  image: z.strictObject({ name: z.string(), digest: z.string() }),
  scope: z.strictObject({ cluster: z.string(), namespace: z.string(), workload: z.string() }),
  sections: z
    .array(
      z.strictObject({
        section: z.string(),
        items: z.array(z.strictObject({ fact: z.json(), source: z.string(), reason: z.string() })).max(ITEMS_MAX),
      }),
    )
    .max(8),
});

function sectionName(section: Section): string {
  return enumText(Section, section);
}

/**
 * A model as text: allowed items in a stable order, without counts and times, so that it changes only when what is allowed
 * changes and can be kept beside a deployment's files.
 */
export function exportModel(record: ModelRecord): string {
  const sections = record.sections.map(({ section, items }) => ({
    section: sectionName(section),
    items: Object.entries(items)
      .filter(([, { status }]) => status === ItemStatus.ALLOWED)
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([, { fact, source, reason }]) => ({ fact, source: enumText(ItemSource, source), reason })),
  }));
  const document = {
    format: FORMAT,
    version: VERSION,
    image: { name: record.imageName, digest: record.imageDigest },
    scope: { cluster: record.cluster, namespace: record.namespace, workload: record.workload },
    sections,
  };
  return `${JSON.stringify(document, null, 2)}\n`;
}

function refuse(...faults: readonly FieldFault[]): never {
  throw invalidRequest(faults.slice(0, 100));
}

function parseJson(document: string): unknown {
  try {
    return JSON.parse(document);
  } catch (error) {
    return refuse({ field: "document", message: `is no JSON: ${(error as Error).message}` });
  }
}

function placeText(path: readonly PropertyKey[]): string {
  return path.reduce<string>(
    (text, part) => text + (typeof part === "number" ? `[${part}]` : `.${String(part)}`),
    "document",
  );
}

/** What is said of a document that another version wrote comes before everything else that does not fit. */
function checkVersion(value: unknown): void {
  const { format, version } = (typeof value === "object" && value !== null ? value : {}) as Record<string, unknown>;
  if (format !== FORMAT) refuse({ field: "document.format", message: `must be \`${FORMAT}\`` });
  if (version !== VERSION) {
    refuse({
      field: "document.version",
      message: `is ${JSON.stringify(version)}; this Gabion reads version ${VERSION}`,
    });
  }
}

function checkFact(fact: Fact, field: string, validator: Validator, faults: FieldFault[]): void {
  const { kind } = fact;
  if (kind.case === undefined)
    faults.push({ field, message: "must have one of process, listen, outbound, domain, file, syscall" });
  const { violations = [] } = validator.validate(FactSchema, fact);
  for (const violation of violations)
    faults.push({ field: `${field}.${pathText(violation.field)}`, message: violation.message });
  const family = familyFault(fact);
  if (family !== undefined) faults.push({ field, message: family });
  if (kind.case === "process" && !kind.value.path.startsWith("/"))
    faults.push({ field: `${field}.process.path`, message: "must be an absolute path" });
  if (kind.case === "file" && !(kind.value.path.startsWith("/") && kind.value.processPath.startsWith("/")))
    faults.push({ field: `${field}.file`, message: "must have absolute paths" });
  if (kind.case === "outbound" && kind.value.address !== "" && parsePrefix(kind.value.address) === undefined)
    faults.push({ field: `${field}.outbound.address`, message: "must be an address or a prefix" });
  if (kind.case === "syscall" && kind.value.name === "")
    faults.push({ field: `${field}.syscall.name`, message: "must not be empty" });
}

/** Reads what `exportModel` wrote. Refuses it whole, with every fault and its place. */
export function parseExport(document: string, nowMs: number): GivenFact[] {
  const value = parseJson(document);
  checkVersion(value);
  const parsed = DOCUMENT.safeParse(value);
  if (!parsed.success) {
    return refuse(...parsed.error.issues.map(({ path, message }) => ({ field: placeText(path), message })));
  }
  const faults: FieldFault[] = [];
  const validator = createValidator();
  const facts = parsed.data.sections.flatMap(({ section, items }, s) =>
    items.flatMap(({ fact: json, reason }, i) => {
      const field = `document.sections[${s}].items[${i}].fact`;
      let fact: Fact;
      try {
        fact = fromJson(FactSchema, json as JsonValue);
      } catch (error) {
        faults.push({ field, message: (error as Error).message });
        return [];
      }
      checkFact(fact, field, validator, faults);
      if (fact.kind.case !== undefined && sectionName(sectionOfFact(fact)) !== section)
        faults.push({ field, message: `does not belong to section \`${section}\`` });
      return [{ fact, reason }];
    }),
  );
  if (faults.length > 0) refuse(...faults);
  const seen = new Set<string>();
  return facts.flatMap(({ fact, reason }): GivenFact[] => {
    const id = factId(fact);
    if (seen.has(id)) return [];
    seen.add(id);
    const given = { source: ItemSource.PERSON, reason: `imported: ${reason}`.slice(0, 1_000) };
    return [{ fact, item: { ...givenItem(fact, nowMs, given), fact: toJson(FactSchema, fact) } }];
  });
}
