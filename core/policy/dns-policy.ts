import { create } from "@bufbuild/protobuf";
import { type DomainFact, type Fact, FactSchema, type LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { type Decision, Effect, Reason } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { DnsSection } from "#gen/gabion/rule/v1/rule_pb.ts";
import { isEncryptedDnsName } from "../detect/encrypted-dns.ts";
import { badText, findBadDomain, type Intel, type Listed } from "../intel/intel-set.ts";
import { type AddressPrefix, parsePrefix } from "../matching/address.ts";
import { compileDomainIndex, type DomainIndex, type DomainPattern, parseDomainPattern } from "../matching/domain.ts";
import { compileFamilies, type Families } from "../model/item-pattern.ts";
import {
  allowed,
  type CompiledDetector,
  type Consideration,
  compileDetector,
  denial,
  detection,
  deviation,
  type Finding,
  inModel,
  type Ruling,
  rule,
  type SectionPolicy,
  toDecision,
  unjudged,
  whereNamed,
} from "./finding.ts";
import { nearestItems } from "./nearest.ts";
import type { TreatmentSettings } from "./treatment.ts";

/** What the DNS part of a resultant policy is made of. */
export interface DnsPolicyInput {
  readonly section: DnsSection | undefined;
  readonly hasRule: boolean;
  readonly items: readonly DomainFact[];
  readonly state: LearningState;
  readonly settings?: TreatmentSettings;
  readonly intel?: Intel;
  /** Addresses of the resolvers that the container was given; none where that is not known. */
  readonly resolvers?: readonly string[];
}

export const DNS_DETECTORS = ["dns_tunnel", "dns_flood", "encrypted_dns", "foreign_resolver", "intel"] as const;
export type DnsDetector = (typeof DNS_DETECTORS)[number];

/** The resultant policy for look-ups. */
export interface CompiledDnsPolicy extends DnsPolicyInput, SectionPolicy {
  readonly denied: readonly DomainPattern[];
  readonly allowed: readonly DomainPattern[];
  readonly lists: { readonly denied: DomainIndex; readonly allowed: DomainIndex };
  readonly detectors: Readonly<Record<DnsDetector, CompiledDetector>>;
  /** Who may be asked for names: what the container was given, and what its detector excepts. Empty for whoever. */
  readonly ownResolvers: readonly AddressPrefix[];
  readonly known: ReadonlySet<string>;
  /** Families of names, as the model folded them. */
  readonly families: Families;
  readonly hasFamilies: boolean;
}

/** A name that was asked for, as policy looks at it. */
export interface DnsQueryEvent {
  /** Lower case, without the last dot. */
  readonly name: string;
  readonly recordType: number;
  /** A message to a resolver that is no well-formed question. */
  readonly isMalformed: boolean;
}

const TYPES: Readonly<Record<number, string>> = {
  1: "A",
  2: "NS",
  5: "CNAME",
  6: "SOA",
  10: "NULL",
  12: "PTR",
  15: "MX",
  16: "TXT",
  25: "KEY",
  28: "AAAA",
  33: "SRV",
  64: "SVCB",
  65: "HTTPS",
  255: "ANY",
};

/** A record type by its name (RFC 3597 for those without). */
export function recordTypeText(type: number): string {
  return TYPES[type] ?? `TYPE${type}`;
}

function patterns(texts: readonly string[]): DomainPattern[] {
  return texts.flatMap((text) => {
    const pattern = parseDomainPattern(text);
    return pattern ? [pattern] : [];
  });
}

function ownResolvers({ resolvers = [], section }: DnsPolicyInput): AddressPrefix[] {
  const excepted = section?.detectors["foreign_resolver" satisfies DnsDetector]?.exceptions ?? [];
  return resolvers.length === 0 ? [] : [...resolvers, ...excepted].flatMap((text) => parsePrefix(text) ?? []);
}

function key(name: string, type: number): string {
  return `${type} ${name}`;
}

/** Compiles the resultant policy. A section that the rule leaves out is disabled: nothing is learned or analysed. */
export function compileDnsPolicy(input: DnsPolicyInput): CompiledDnsPolicy {
  const effect = input.section?.effect ?? Effect.DISABLE;
  const detectors = DNS_DETECTORS.map(
    (name) => [name, compileDetector(input.section?.detectors[name], effect)] as const,
  );
  const denied = patterns(input.section?.denied ?? []);
  const allowedPatterns = patterns(input.section?.allowed ?? []);
  return {
    ...input,
    effect,
    denied,
    allowed: allowedPatterns,
    lists: { denied: compileDomainIndex(denied), allowed: compileDomainIndex(allowedPatterns) },
    detectors: Object.fromEntries(detectors) as Record<DnsDetector, CompiledDetector>,
    ownResolvers: ownResolvers(input),
    known: new Set(input.items.filter(({ isPattern }) => !isPattern).map((item) => key(item.name, item.recordType))),
    hasFamilies: input.items.some(({ isPattern }) => isPattern),
    families: compileFamilies(input.items.map((value) => create(FactSchema, { kind: { case: "domain", value } }))),
  };
}

function shown({ name, recordType }: DnsQueryEvent): string {
  return `\`${name}\` (${recordTypeText(recordType)})`;
}

function sharedLabels(a: string, b: string): number {
  const left = a.split(".").reverse();
  const right = b.split(".").reverse();
  const at = left.findIndex((label, i) => label !== right[i]);
  return at < 0 ? left.length : at;
}

/** A message without a name is named by no list. */
function findListed(list: DomainIndex, { name, isMalformed }: DnsQueryEvent): string | undefined {
  return isMalformed ? undefined : list.find(name)?.source;
}

function findInModel(policy: CompiledDnsPolicy, event: DnsQueryEvent): Finding {
  if (event.isMalformed) {
    return deviation(policy.effect, () => "a message to a resolver is no well-formed question with one name");
  }
  const text = () => shown(event);
  if (policy.known.has(key(event.name, event.recordType))) return inModel(policy.effect, event.name, text);
  const family = policy.hasFamilies ? policy.families.of(domainFact(event)) : undefined;
  return family?.kind.case === "domain"
    ? inModel(policy.effect, family.kind.value.name, text)
    : deviation(policy.effect, () => `the look-up of ${shown(event)} is not in the model`);
}

/** The name of an intelligence entry that the DNS section acts on; undefined where it has nothing to say. */
export function findListedName({ intel, detectors }: CompiledDnsPolicy, name: string): Listed | undefined {
  const { effect, excepts } = detectors.intel;
  if (!intel || effect === Effect.DISABLE || excepts(name)) return undefined;
  return findBadDomain(intel, name);
}

/** The look-up of a resolver over TLS or HTTPS: the next look-ups will not be seen. */
function findEncryptedResolver(policy: CompiledDnsPolicy, { name, isMalformed }: DnsQueryEvent): Finding | undefined {
  const { effect, excepts } = policy.detectors.encrypted_dns;
  if (effect === Effect.DISABLE || isMalformed || !isEncryptedDnsName(name) || excepts(name)) return undefined;
  const message = `\`${name}\` answers DNS over TLS or HTTPS: look-ups there cannot be seen`;
  return detection(effect, "encrypted_dns", false, message);
}

/** Intelligence comes after the allowed list, which exists to correct it. */
function findBadName(policy: CompiledDnsPolicy, event: DnsQueryEvent): Finding | undefined {
  const bad = event.isMalformed ? undefined : findListedName(policy, event.name);
  if (!bad) return undefined;
  const within = bad.value === event.name ? "a bad domain" : `below the bad domain \`${bad.value}\``;
  const message = `the look-up of ${shown(event)}: it is ${within}, ${badText(bad)}`;
  return detection(policy.detectors.intel.effect, "intel", true, message);
}

const CONSIDERATIONS: readonly Consideration<CompiledDnsPolicy, DnsQueryEvent>[] = [
  ["denied list", (p, e) => whereNamed(findListed(p.lists.denied, e), (m) => denial(p.effect, m, () => shown(e)))],
  ["encrypted DNS detector", findEncryptedResolver],
  ["allowed list", (p, e) => whereNamed(findListed(p.lists.allowed, e), (m) => allowed(p.effect, m, () => shown(e)))],
  ["intelligence", findBadName],
  ["model", findInModel],
];

/** The ruling on a look-up. */
export function ruleDnsQuery(policy: CompiledDnsPolicy, event: DnsQueryEvent): Ruling {
  const ruling = rule(policy, "DNS", CONSIDERATIONS, event, () =>
    nearestItems(
      policy.items,
      (item) => -sharedLabels(item.name, event.name),
      (item) => `${item.name} (${recordTypeText(item.recordType)})`,
      (item) => (item.name === event.name ? "another record type" : "another name"),
    ),
  );
  // What has no name cannot be learned.
  return event.isMalformed ? { ...ruling, treatment: { ...ruling.treatment, isLearned: false } } : ruling;
}

/** What policy says of a look-up. */
export function evaluateDnsQuery(policy: CompiledDnsPolicy, event: DnsQueryEvent): Decision {
  return toDecision(ruleDnsQuery(policy, event));
}

/** Detectors of ways past what is watched. They may have good reasons; the others find what only an attacker does. */
const WAYS_PAST: readonly DnsDetector[] = ["encrypted_dns", "foreign_resolver"];

/** What policy says of something that a DNS detector found. */
export function evaluateDnsDetection(
  policy: CompiledDnsPolicy,
  name: DnsDetector,
  message: string,
  object: string,
): Decision {
  const { effect, excepts } = policy.detectors[name];
  const finding =
    effect === Effect.DISABLE || excepts(object)
      ? unjudged(Reason.SECTION_DISABLED, `the detector ${name} is off`)
      : detection(effect, name, !WAYS_PAST.includes(name), message);
  return toDecision(rule(policy, "DNS", [[name, () => finding]], object));
}

/** What a look-up teaches. */
export function domainFact({ name, recordType }: DnsQueryEvent): Fact {
  return create(FactSchema, { kind: { case: "domain", value: { name, recordType } } });
}
