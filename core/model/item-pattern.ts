import { create } from "@bufbuild/protobuf";
import { type Fact, FactSchema } from "#gen/gabion/model/v1/model_pb.ts";
import { isWithin, parsePrefix } from "../matching/address.ts";
import { compilePattern } from "../matching/pattern.ts";
import { isNeverFolded } from "./path-class.ts";
import { shapeOf } from "./shape.ts";

/** Ports that clients are given (Linux, `ip_local_port_range`): learned as one, port 0. */
export const EPHEMERAL_FIRST = 32_768;
export const EPHEMERAL_LAST = 60_999;

type Separator = "/" | ".";

/**
 * A part of a family: `*` stands for any characters, `?` for characters of the same making, so that `job-?` is `job-17` and
 * not `job-evil`. Names that hold one of the two by themselves are never part of a family.
 */
function compilePart(part: string): (text: string) => boolean {
  if (part.includes("?")) return (text) => shapeOf(text)?.pattern === part;
  return compilePattern(part).matches;
}

/** Both have as many parts, and each part covers the other's. */
function compileParts(pattern: string, separator: Separator): (text: string) => boolean {
  const parts = pattern.split(separator).map(compilePart);
  return (text) => {
    const texts = text.split(separator);
    return texts.length === parts.length && parts.every((covers, i) => covers(texts[i] as string));
  };
}

/** True if a text has a character that stands for others in families. */
export function hasWildcard(text: string): boolean {
  return /[*?]/.test(text);
}

/** Labels as host names have them: what else a query may hold could be taken for another name's end. */
const PLAIN_NAME = /^[a-z0-9_-]+(\.[a-z0-9_-]+)*$/;

/** True if a fact stands for a family of facts. */
export function isFamily(fact: Fact): boolean {
  const { kind } = fact;
  if (kind.case === "file" || kind.case === "domain") return kind.value.isPattern;
  return kind.case === "outbound" && (kind.value.port === 0 || kind.value.address.includes("/"));
}

function isEphemeral(port: number): boolean {
  return port >= EPHEMERAL_FIRST && port <= EPHEMERAL_LAST;
}

function compileAddress(pattern: string): (address: string) => boolean {
  const prefix = pattern.includes("/") ? parsePrefix(pattern) : undefined;
  return (address) => {
    if (prefix === undefined || address === "") return address === pattern;
    const parsed = parsePrefix(address);
    return parsed !== undefined && isWithin(prefix, parsed.bytes);
  };
}

/** Tells which facts a family covers. */
export function compileFamily({ kind: family }: Fact): (fact: Fact) => boolean {
  switch (family.case) {
    case "file": {
      const { path, processPath } = family.value;
      const covers = compileParts(path, "/");
      return ({ kind }) =>
        kind.case === "file" &&
        !kind.value.isExecutable &&
        kind.value.processPath === processPath &&
        !isNeverFolded(kind.value.path) &&
        covers(kind.value.path);
    }
    case "domain": {
      const { name, recordType } = family.value;
      const covers = compileParts(name, ".");
      return ({ kind }) =>
        kind.case === "domain" &&
        kind.value.recordType === recordType &&
        PLAIN_NAME.test(kind.value.name) &&
        covers(kind.value.name);
    }
    case "outbound": {
      const { transport, port, address } = family.value;
      const covers = compileAddress(address);
      const isPort = (other: number) => other === port || (port === 0 && isEphemeral(other));
      return ({ kind }) =>
        kind.case === "outbound" &&
        kind.value.transport === transport &&
        isPort(kind.value.port) &&
        covers(kind.value.address);
    }
    default:
      return () => false;
  }
}

/** Ready to tell which family of a model a fact belongs to. */
export interface Families {
  /** The family's fact; undefined where the fact stands for itself. */
  readonly of: (fact: Fact) => Fact | undefined;
}

/** Compiles the families among a model's facts. */
export function compileFamilies(facts: readonly Fact[]): Families {
  const families = facts.filter(isFamily).map((family) => ({ family, covers: compileFamily(family) }));
  return { of: (fact) => (isFamily(fact) ? undefined : families.find(({ covers }) => covers(fact))?.family) };
}

/** The same fact with another path, name, port or address. */
export function familyFact(fact: Fact, text: string): Fact {
  const { kind } = fact;
  if (kind.case === "file")
    return create(FactSchema, { kind: { case: "file", value: { ...kind.value, path: text, isPattern: true } } });
  if (kind.case === "domain")
    return create(FactSchema, { kind: { case: "domain", value: { ...kind.value, name: text, isPattern: true } } });
  return fact;
}

/** Text by which a member of a family is shown, and made again when the family is taken apart. */
export function memberText({ kind }: Fact): string {
  switch (kind.case) {
    case "file":
      return kind.value.path;
    case "domain":
      return kind.value.name;
    case "outbound":
      return kind.value.address === "" ? String(kind.value.port) : kind.value.address;
    default:
      return "";
  }
}

/** The member of a family by its text. */
export function memberFact(family: Fact, text: string): Fact {
  const { kind } = family;
  switch (kind.case) {
    case "file":
      return create(FactSchema, {
        kind: {
          case: "file",
          value: { path: text, processPath: kind.value.processPath, isPattern: hasWildcard(text) },
        },
      });
    case "domain":
      return create(FactSchema, {
        kind: {
          case: "domain",
          value: { name: text, recordType: kind.value.recordType, isPattern: hasWildcard(text) },
        },
      });
    case "outbound": {
      const { transport, port, address } = kind.value;
      const value = address === "" ? { transport, port: Number(text), address } : { transport, port, address: text };
      return create(FactSchema, { kind: { case: "outbound", value } });
    }
    default:
      return family;
  }
}
