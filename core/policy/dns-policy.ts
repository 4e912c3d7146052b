import { create } from "@bufbuild/protobuf";
import { type DomainFact, type Fact, FactSchema, type LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { type Decision, Effect, Reason } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { DnsSection } from "#gen/gabion/rule/v1/rule_pb.ts";
import { type DomainPattern, matchesDomain, parseDomainPattern } from "../matching/domain.ts";
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
  judge,
  type SectionPolicy,
  toDecision,
  unjudged,
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
}

export const DNS_DETECTORS = ["dns_tunnel", "dns_flood", "encrypted_dns"] as const;
export type DnsDetector = (typeof DNS_DETECTORS)[number];

/** The resultant policy for look-ups. */
export interface CompiledDnsPolicy extends DnsPolicyInput, SectionPolicy {
  readonly denied: readonly DomainPattern[];
  readonly allowed: readonly DomainPattern[];
  readonly detectors: Readonly<Record<DnsDetector, CompiledDetector>>;
  readonly known: ReadonlySet<string>;
  /** Families of names, as the model folded them. */
  readonly families: Families;
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

function key(name: string, type: number): string {
  return `${type} ${name}`;
}

/** Compiles the resultant policy. A section that the rule leaves out is disabled: nothing is learned or analysed. */
export function compileDnsPolicy(input: DnsPolicyInput): CompiledDnsPolicy {
  const effect = input.section?.effect ?? Effect.DISABLE;
  const detectors = DNS_DETECTORS.map(
    (name) => [name, compileDetector(input.section?.detectors[name], effect)] as const,
  );
  return {
    ...input,
    effect,
    denied: patterns(input.section?.denied ?? []),
    allowed: patterns(input.section?.allowed ?? []),
    detectors: Object.fromEntries(detectors) as Record<DnsDetector, CompiledDetector>,
    known: new Set(input.items.filter(({ isPattern }) => !isPattern).map((item) => key(item.name, item.recordType))),
    families: compileFamilies(input.items.map((value) => create(FactSchema, { kind: { case: "domain", value } }))),
  };
}

function shown({ name, recordType }: DnsQueryEvent): string {
  return `\`${name}\` (${recordTypeText(recordType)})`;
}

function findListed(list: readonly DomainPattern[], { name }: DnsQueryEvent): string | undefined {
  return list.find((pattern) => matchesDomain(pattern, name))?.source;
}

function sharedLabels(a: string, b: string): number {
  const left = a.split(".").reverse();
  const right = b.split(".").reverse();
  const at = left.findIndex((label, i) => label !== right[i]);
  return at < 0 ? left.length : at;
}

/** What policy says of a look-up. */
export function evaluateDnsQuery(policy: CompiledDnsPolicy, event: DnsQueryEvent): Decision {
  const listed = (match: string | undefined, make: (match: string) => Finding) =>
    match === undefined || event.isMalformed ? undefined : make(match);
  const find = (): Finding => {
    if (event.isMalformed) {
      return deviation(policy.effect, "a message to a resolver is no well-formed question with one name");
    }
    if (policy.known.has(key(event.name, event.recordType))) return inModel(policy.effect, event.name, shown(event));
    const family = policy.families.of(domainFact(event));
    return family?.kind.case === "domain"
      ? inModel(policy.effect, family.kind.value.name, shown(event))
      : deviation(policy.effect, `the look-up of ${shown(event)} is not in the model`);
  };
  const considerations: readonly Consideration<DnsQueryEvent>[] = [
    ["denied list", (e) => listed(findListed(policy.denied, e), (m) => denial(policy.effect, m, shown(e)))],
    ["allowed list", (e) => listed(findListed(policy.allowed, e), (m) => allowed(policy.effect, m, shown(e)))],
    ["model", find],
  ];
  const decision = toDecision(policy, judge(policy, "DNS", considerations, event), () =>
    nearestItems(
      policy.items,
      (item) => -sharedLabels(item.name, event.name),
      (item) => `${item.name} (${recordTypeText(item.recordType)})`,
      (item) => (item.name === event.name ? "another record type" : "another name"),
    ),
  );
  // What has no name cannot be learned.
  decision.isLearned &&= !event.isMalformed;
  return decision;
}

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
      : detection(effect, name, name !== "encrypted_dns", message);
  return toDecision(policy, judge(policy, "DNS", [[name, () => finding]], object));
}

/** What a look-up teaches. */
export function domainFact({ name, recordType }: DnsQueryEvent): Fact {
  return create(FactSchema, { kind: { case: "domain", value: { name, recordType } } });
}
