import { create } from "@bufbuild/protobuf";
import { getDomain } from "tldts";
import { type Fact, FactSchema } from "#gen/gabion/model/v1/model_pb.ts";
import { isWithin, mappedAddress, parsePrefix } from "../matching/address.ts";
import { compileFamily, EPHEMERAL_FIRST, EPHEMERAL_LAST, familyFact, hasWildcard, isFamily } from "./item-pattern.ts";
import { isNeverFolded, pathClass } from "./path-class.ts";
import { shapeOf } from "./shape.ts";

/** A family that has shown itself: one fact that takes the place of several. */
export interface Fold {
  readonly family: Fact;
  /** Ids of the items that it replaces. */
  readonly members: readonly string[];
  /** Why, for a person. */
  readonly reason: string;
}

/** An item that may become part of a family. */
export interface Foldable {
  readonly id: string;
  readonly fact: Fact;
}

/** Names of one shape that make a family: three are no accident (reference: Kubescape folds numbers and hashes at once). */
const SHAPED_MIN = 3;
/** Two hexadecimal digits alone: a content-addressed store has up to 256 such folders. */
const FAN_OUT_MIN = 16;
/** Names without a shape, labels of a domain. */
const LABELS_MIN = 10;
const PORTS_MIN = 10;
const ADDRESSES_MIN = 10;

interface Family {
  /** What the varying part becomes. */
  readonly pattern: string;
  readonly ids: readonly string[];
  readonly reason: string;
}

/** Among texts in one place, those that make a family with the given one. */
function familyAt(
  own: string,
  others: ReadonlyMap<string, string>,
  plainMin: number,
  what: string,
): Family | undefined {
  const shape = shapeOf(own);
  if (shape) {
    const same = [...others].filter(([text]) => {
      const other = shapeOf(text);
      return other?.pattern === shape.pattern && other.isFanOut === shape.isFanOut;
    });
    if (same.length >= (shape.isFanOut ? FAN_OUT_MIN : SHAPED_MIN)) {
      const reason = `${same.length} ${what} that differ in ${shape.what} only`;
      return { pattern: shape.pattern, ids: same.map(([, id]) => id), reason };
    }
  }
  if (others.size < plainMin) return undefined;
  const reason = `${others.size} ${what} in one place, where ${plainMin} are taken for any`;
  return { pattern: "*", ids: [...others.values()], reason };
}

/** Tries each place of a text of parts, from the last to the first. */
function foldParts(
  own: Foldable,
  parts: readonly string[],
  siblings: readonly { readonly id: string; readonly parts: readonly string[] }[],
  options: {
    readonly separator: string;
    readonly places: readonly number[];
    readonly plainMin: number;
    readonly what: string;
  },
): Fold | undefined {
  for (const place of options.places) {
    const others = new Map<string, string>();
    for (const sibling of siblings) {
      const isBeside =
        sibling.parts.length === parts.length && sibling.parts.every((part, i) => i === place || part === parts[i]);
      if (isBeside) others.set(sibling.parts[place] as string, sibling.id);
    }
    const part = parts[place] as string;
    // What is a pattern there already takes in whatever its siblings are.
    const family = part === "*" ? undefined : familyAt(part, others, options.plainMin, options.what);
    if (!family) continue;
    const text = parts.map((each, i) => (i === place ? family.pattern : each)).join(options.separator);
    return { family: familyFact(own.fact, text), members: family.ids, reason: family.reason };
  }
  return undefined;
}

/** A wildcard that is a character of a name and no pattern: such a name is left alone. */
function isLiteralStar(text: string, isPattern: boolean): boolean {
  return hasWildcard(text) && !isPattern;
}

function foldPath(own: Foldable, items: readonly Foldable[]): Fold | undefined {
  if (own.fact.kind.case !== "file") return undefined;
  const { path, processPath, isExecutable, isPattern } = own.fact.kind.value;
  const { min, fixed } = pathClass(path);
  if (isExecutable || min === Number.POSITIVE_INFINITY || isLiteralStar(path, isPattern)) return undefined;
  const parts = path.split("/");
  const siblings = items.flatMap(({ id, fact: { kind } }) =>
    kind.case === "file" &&
    kind.value.processPath === processPath &&
    !kind.value.isExecutable &&
    !isNeverFolded(kind.value.path) &&
    !isLiteralStar(kind.value.path, kind.value.isPattern)
      ? [{ id, parts: kind.value.path.split("/") }]
      : [],
  );
  const places = parts.map((_, i) => i).filter((i) => i >= fixed);
  const what = `folders that \`${processPath}\` writes in`;
  return foldParts(own, parts, siblings, { separator: "/", places: places.reverse(), plainMin: min, what });
}

/** The name that somebody registered; undefined for public suffixes, and for what is no plain name. */
export function registrableName(name: string): string | undefined {
  const plain = name.replaceAll(/[*?]+/g, "x");
  if (!/^[a-z0-9_-]+(\.[a-z0-9_-]+)*$/.test(plain)) return undefined;
  return getDomain(plain, { allowPrivateDomains: true, validateHostname: false, extractHostname: false }) ?? undefined;
}

/**
 * Labels are folded only below the registrable name (Public Suffix List with its private part): whoever registered that
 * gives out all names below it. `a.s3.amazonaws.com` and `b.s3.amazonaws.com` belong to two, and never become one.
 */
function foldDomain(own: Foldable, items: readonly Foldable[]): Fold | undefined {
  if (own.fact.kind.case !== "domain") return undefined;
  const { name, recordType, isPattern } = own.fact.kind.value;
  const registrable = registrableName(name);
  if (!registrable || isLiteralStar(name, isPattern)) return undefined;
  const parts = name.split(".");
  const open = parts.length - registrable.split(".").length;
  const siblings = items.flatMap(({ id, fact: { kind } }) =>
    kind.case === "domain" &&
    kind.value.recordType === recordType &&
    registrableName(kind.value.name) === registrable &&
    !isLiteralStar(kind.value.name, kind.value.isPattern)
      ? [{ id, parts: kind.value.name.split(".") }]
      : [],
  );
  const places = parts.map((_, i) => i).filter((i) => i < open);
  return foldParts(own, parts, siblings, { separator: ".", places, plainMin: LABELS_MIN, what: "names" });
}

/** True for an address or prefix within. */
export function isInternal(text: string): boolean {
  const parsed = parsePrefix(text);
  return (
    parsed !== undefined && INTERNAL.some((range) => range.length <= parsed.length && isWithin(range, parsed.bytes))
  );
}

function hex(bytes: Uint8Array, length: number): string {
  return Buffer.from(bytes.subarray(0, length)).toString("hex");
}

/** Networks within, whose addresses come and go with pods; an address of the Internet says who is behind it. */
const INTERNAL = ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10"].flatMap(
  (text) => parsePrefix(text) ?? [],
);

/** The /24 of an internal IPv4 address, the /64 of an IPv6 one. */
function networkOf(address: string): string | undefined {
  const bytes = parsePrefix(address)?.bytes;
  if (address.includes("/") || bytes === undefined || !isInternal(address)) return undefined;
  if (address.includes("."))
    return `${address
      .slice(address.lastIndexOf(":") + 1)
      .split(".")
      .slice(0, 3)
      .join(".")}.0/24`;
  const groups = hex(mappedAddress(bytes), 8).match(/.{4}/g) ?? [];
  return `${groups.map((group) => group.replace(/^0{1,3}/, "")).join(":")}::/64`;
}

/** Ports that clients are given become one; addresses within, which come and go with pods, become their network. */
function foldOutbound(own: Foldable, items: readonly Foldable[]): Fold | undefined {
  if (own.fact.kind.case !== "outbound" || isFamily(own.fact)) return undefined;
  const { transport, port, address } = own.fact.kind.value;
  const isPort = address === "";
  const network = isPort ? undefined : networkOf(address);
  if (isPort ? port < EPHEMERAL_FIRST || port > EPHEMERAL_LAST : network === undefined) return undefined;
  const value = isPort ? { transport, port: 0, address: "" } : { transport, port, address: network as string };
  const family = create(FactSchema, { kind: { case: "outbound", value } });
  const covers = compileFamily(family);
  const members = items.filter(({ fact }) => !isFamily(fact) && covers(fact)).map(({ id }) => id);
  const min = isPort ? PORTS_MIN : ADDRESSES_MIN;
  if (members.length < min) return undefined;
  const what = isPort
    ? `ports of the Internet from ${EPHEMERAL_FIRST} to ${EPHEMERAL_LAST}`
    : `addresses in ${network}`;
  return { family, members, reason: `${members.length} ${what}` };
}

/** True for kinds of facts that may be part of a family at all. */
export function isFoldable({ kind }: Fact): boolean {
  return kind.case === "file" || kind.case === "domain" || kind.case === "outbound";
}

/**
 * The family that a new item completes, if it does. Programs and executables are never folded, nor anything in places
 * where one more name is what an attack looks like.
 */
export function findFold(own: Foldable, items: readonly Foldable[]): Fold | undefined {
  switch (own.fact.kind.case) {
    case "file":
      return foldPath(own, items);
    case "domain":
      return foldDomain(own, items);
    case "outbound":
      return foldOutbound(own, items);
    default:
      return undefined;
  }
}

function pathFault(path: string, isExecutable: boolean): string | undefined {
  if (isExecutable) return "executables are never a family";
  if (isNeverFolded(path)) return "nothing is a family in this place";
  const isEarly = path.split("/").slice(0, pathClass(path).fixed).some(hasWildcard);
  return isEarly ? "a wildcard stands too early in the path" : undefined;
}

function nameFault(name: string): string | undefined {
  const registrable = registrableName(name);
  const fixed = name.split(".").slice(-(registrable?.split(".").length ?? 0));
  return registrable === undefined || fixed.some(hasWildcard)
    ? "names are families below a registrable name only"
    : undefined;
}

/** Why a family that somebody gives may not be one; undefined where it may. The same places as for those that are learned. */
export function familyFault({ kind }: Fact): string | undefined {
  switch (kind.case) {
    case "file":
      return kind.value.isPattern ? pathFault(kind.value.path, kind.value.isExecutable) : undefined;
    case "domain":
      return kind.value.isPattern ? nameFault(kind.value.name) : undefined;
    case "outbound":
      return kind.value.address.includes("/") && !isInternal(kind.value.address)
        ? "addresses are families within only"
        : undefined;
    default:
      return undefined;
  }
}
