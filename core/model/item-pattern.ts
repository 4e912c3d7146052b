import { create } from "@bufbuild/protobuf";
import { type Fact, FactSchema } from "#gen/gabion/model/v1/model_pb.ts";
import { isWithin, parsePrefix } from "../matching/address.ts";
import { compilePattern } from "../matching/pattern.ts";

/** Ports that clients are given (Linux, `ip_local_port_range`): learned as one, port 0. */
export const EPHEMERAL_FIRST = 32_768;
export const EPHEMERAL_LAST = 60_999;

type Separator = "/" | ".";

/** A pattern of parts: `*` stands for characters within one part, so both have as many parts. */
function compileParts(pattern: string, separator: Separator): (text: string) => boolean {
  const parts = pattern.split(separator).map((part) => compilePattern(part));
  return (text) => {
    const texts = text.split(separator);
    return texts.length === parts.length && parts.every(({ matches }, i) => matches(texts[i] as string));
  };
}

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
        covers(kind.value.path);
    }
    case "domain": {
      const { name, recordType } = family.value;
      const covers = compileParts(name, ".");
      return ({ kind }) => kind.case === "domain" && kind.value.recordType === recordType && covers(kind.value.name);
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
          value: { path: text, processPath: kind.value.processPath, isPattern: text.includes("*") },
        },
      });
    case "domain":
      return create(FactSchema, {
        kind: {
          case: "domain",
          value: { name: text, recordType: kind.value.recordType, isPattern: text.includes("*") },
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
