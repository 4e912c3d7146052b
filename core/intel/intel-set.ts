import { timestampMs } from "@bufbuild/protobuf/wkt";
import type { FileIndicator, IntelSet, NameIndicator } from "#gen/gabion/intel/v1/intel_pb.ts";
import { type AddressPrefix, parsePrefix } from "../matching/address.ts";
import { type AddressIndex, compileAddressIndex } from "../matching/number-index.ts";

/** What is known of something bad. */
export interface KnownBad {
  readonly feed: string;
  readonly description: string;
  /** When it stops being bad, in ms; undefined for never. */
  readonly expireMs: number | undefined;
}

/** A domain or prefix as it is listed. */
export interface Listed extends KnownBad {
  readonly value: string;
}

/** A listed prefix with its bits. */
export interface ListedPrefix extends Listed, AddressPrefix {}

/** What is known to be bad. */
export interface Intel {
  /** Of the set that it came with; 0 for none. */
  readonly revision: bigint;
  /** Entries in force: what expires leaves others. */
  readonly count: number;
  /** By the SHA-256 of their content in hex. */
  readonly byHash: ReadonlyMap<string, KnownBad>;
  /** Domains, each for everything below it too. */
  readonly domains: ReadonlyMap<string, Listed>;
  readonly domainExceptions: ReadonlyMap<string, Listed>;
  readonly prefixes: readonly ListedPrefix[];
  readonly prefixExceptions: readonly ListedPrefix[];
  readonly index: { readonly bad: AddressIndex; readonly exceptions: AddressIndex };
}

function known({ feed, description, expireTime }: FileIndicator | NameIndicator): KnownBad {
  return { feed, description, expireMs: expireTime && timestampMs(expireTime) };
}

function listed(entry: NameIndicator): Listed {
  return { ...known(entry), value: entry.value };
}

function prefixes(entries: readonly NameIndicator[]): ListedPrefix[] {
  return entries.flatMap((entry) => {
    const prefix = parsePrefix(entry.value);
    return prefix ? [{ ...listed(entry), bytes: prefix.bytes, length: prefix.length }] : [];
  });
}

type Content = Pick<Intel, "byHash" | "domains" | "domainExceptions" | "prefixes" | "prefixExceptions">;

function indexed(revision: bigint, content: Content): Intel {
  const { byHash, domains, domainExceptions, prefixes: all, prefixExceptions } = content;
  return {
    ...content,
    revision,
    count: byHash.size + domains.size + domainExceptions.size + all.length + prefixExceptions.length,
    index: { bad: compileAddressIndex(all), exceptions: compileAddressIndex(prefixExceptions) },
  };
}

/** Nothing is known to be bad. */
export const NO_INTEL: Intel = indexed(0n, {
  byHash: new Map(),
  domains: new Map(),
  domainExceptions: new Map(),
  prefixes: [],
  prefixExceptions: [],
});

/** What is in force at a time: entries whose end has come are left out. The same object where there are none. */
export function withoutExpired(intel: Intel, nowMs: number): Intel {
  const isLiving = ({ expireMs }: KnownBad) => expireMs === undefined || expireMs > nowMs;
  const named = [intel.byHash, intel.domains, intel.domainExceptions].flatMap((entries) => [...entries.values()]);
  if ([...named, ...intel.prefixes, ...intel.prefixExceptions].every(isLiving)) return intel;
  const living = <Entry extends KnownBad>(entries: ReadonlyMap<string, Entry>) =>
    new Map([...entries].filter(([, entry]) => isLiving(entry)));
  return indexed(intel.revision, {
    byHash: living(intel.byHash),
    domains: living(intel.domains),
    domainExceptions: living(intel.domainExceptions),
    prefixes: intel.prefixes.filter(isLiving),
    prefixExceptions: intel.prefixExceptions.filter(isLiving),
  });
}

/** The set as policy asks it, without what has expired. */
export function compileIntel({ revision, files, domains, prefixes: all }: IntelSet, nowMs: number): Intel {
  const byName = (entries: readonly NameIndicator[]) => new Map(entries.map((entry) => [entry.value, listed(entry)]));
  const compiled = indexed(revision, {
    byHash: new Map(files.map((file) => [Buffer.from(file.sha256).toString("hex"), known(file)])),
    domains: byName(domains.filter(({ isException }) => !isException)),
    domainExceptions: byName(domains.filter(({ isException }) => isException)),
    prefixes: prefixes(all.filter(({ isException }) => !isException)),
    prefixExceptions: prefixes(all.filter(({ isException }) => isException)),
  });
  return withoutExpired(compiled, nowMs);
}

/** What is known of a name: by its own entry, or that of a domain above it. An exception among them ends it. */
export function findBadDomain({ domains, domainExceptions }: Intel, name: string): Listed | undefined {
  if (domains.size === 0) return undefined;
  let found: Listed | undefined;
  for (let at = name; ; at = at.slice(at.indexOf(".") + 1)) {
    if (domainExceptions.has(at)) return undefined;
    found ??= domains.get(at);
    if (!at.includes(".")) return found;
  }
}

/** What is known of an address of 4 or 16 bytes: the first prefix around it, unless an exception is around it too. */
export function findBadAddress({ prefixes: all, index }: Intel, address: Uint8Array): Listed | undefined {
  const found = all[index.bad.find(address)];
  return found && index.exceptions.find(address) < 0 ? found : undefined;
}

/** Who says that something is bad, for a person. */
export function badText({ feed, description }: KnownBad): string {
  return description === "" ? `listed by ${feed}` : `listed by ${feed}: ${description}`;
}
