import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { DNS_OVER_TLS_PORT, ENCRYPTED_DNS_ADDRESSES, ENCRYPTED_DNS_NAMES } from "../detect/encrypted-dns.ts";
import { parsePrefix } from "../matching/address.ts";
import { type DomainPattern, parseDomainPattern } from "../matching/domain.ts";
import { hasWildcard } from "../model/item-pattern.ts";
import type { KernelObject } from "./custom-rules.ts";
import { type CompiledDnsPolicy, findListedName } from "./dns-policy.ts";
import {
  actionOf,
  KERNEL_INDICATORS_MAX,
  KERNEL_LEARNED_MAX,
  type KernelAction,
  type KernelDefaults,
  type KernelEntry,
  strongestOf,
} from "./kernel-entry.ts";

function entryOf({ name, isSuffix }: DomainPattern, action: KernelAction): KernelEntry {
  return { kind: isSuffix ? "suffix" : "domain", text: name, action };
}

/** Connections that are told because they may lead to a resolver over TLS or HTTPS. Asking stops nothing. */
export function encryptedDnsEntries(policy: CompiledDnsPolicy): KernelEntry[] {
  if (!policy.hasRule || policy.detectors.encrypted_dns.effect === Effect.DISABLE) return [];
  const addresses = ENCRYPTED_DNS_ADDRESSES.flatMap((text): KernelEntry[] => {
    const prefix = parsePrefix(text);
    return prefix ? [{ kind: "address_denied", bytes: prefix.bytes, prefix: prefix.length, action: "ask" }] : [];
  });
  const port = [6, 17].map((protocol): KernelEntry => {
    const bytes = Uint8Array.of(protocol, DNS_OVER_TLS_PORT >> 8, DNS_OVER_TLS_PORT & 0xff);
    return { kind: "port_denied", bytes, prefix: 24, action: "ask" };
  });
  return [...addresses, ...port];
}

/**
 * Names of such resolvers are told when they are looked up, though they may be known. A question would make room for what
 * the section refuses, so one that nothing lets through is left to that.
 */
function encryptedDnsNames(policy: CompiledDnsPolicy): KernelEntry[] {
  if (policy.detectors.encrypted_dns.effect === Effect.DISABLE) return [];
  const isLetThrough = (name: string) =>
    policy.lists.allowed.find(name) !== undefined ||
    policy.items.some((item) => item.name === name || (item.isPattern && isAbove(fixedEnd(item.name), name)));
  const names = policy.effect === Effect.ALERT ? ENCRYPTED_DNS_NAMES : ENCRYPTED_DNS_NAMES.filter(isLetThrough);
  return names.map((text) => ({ kind: "domain", text, action: "ask" }) as const);
}

function isAbove(outer: string, inner: string): boolean {
  return inner === outer || inner.endsWith(`.${outer}`);
}

/** A name and all names above it. */
function lineOf(name: string): string[] {
  const labels = name.split(".");
  return labels.map((_, at) => labels.slice(at).join("."));
}

/** Tells names that are one of the given ones, lie below one, or above one. */
function relatedTo(names: readonly string[]): (name: string) => boolean {
  const own = new Set(names);
  const lines = new Set(names.flatMap(lineOf));
  return (name) => lines.has(name) || lineOf(name).some((above) => own.has(above));
}

/**
 * Domains that intelligence lists, acted upon in the kernel once the model is active. Where the allowed list or an exception
 * may correct one for some names, the kernel asks.
 */
function badNames(policy: CompiledDnsPolicy): KernelEntry[] {
  const { intel, detectors, allowed } = policy;
  const { effect } = detectors.intel;
  if (!intel || effect === Effect.DISABLE || intel.domains.size > KERNEL_INDICATORS_MAX) return [];
  const hasExceptions = (policy.section?.detectors["intel"]?.exceptions.length ?? 0) > 0;
  const isCorrected = relatedTo([...intel.domainExceptions.keys(), ...allowed.map(({ name }) => name)]);
  return [...intel.domains.keys()].flatMap((text): KernelEntry[] => {
    const isStrong = policy.state === LearningState.ACTIVE && effect !== Effect.ALERT;
    const isActing = isStrong && !hasExceptions && !isCorrected(text);
    const action = isActing ? actionOf(effect) : "ask";
    return [
      { kind: "domain", text, action },
      { kind: "suffix", text, action },
    ];
  });
}

/** What denied entries and custom rules name is theirs, whatever intelligence says of it: a stronger effect is not to take its place. */
function unnamed(entries: readonly KernelEntry[], named: readonly DomainPattern[]): KernelEntry[] {
  const isNamed = relatedTo(named.map(({ name }) => name));
  return entries.map((entry) => {
    return "text" in entry && isNamed(entry.text) ? { ...entry, action: "ask" as const } : entry;
  });
}

/** Of a family's name the labels behind the last one with a star. */
function fixedEnd(name: string): string {
  const labels = name.split(".");
  return labels.slice(labels.findLastIndex((label) => hasWildcard(label)) + 1).join(".");
}

/** Names of the model; those that a list names too are the list's, and left to the agent. */
function knownNames(policy: CompiledDnsPolicy): KernelEntry[] {
  return policy.items
    .filter(({ isPattern }) => !isPattern)
    .map((item): KernelEntry => {
      const origin = { kind: "item", fact: { case: "domain", value: item } } as const;
      const action = findListedName(policy, item.name) ? "ask" : "allow";
      return { kind: "domain_item", text: item.name, recordType: item.recordType, action, origin };
    });
}

/**
 * The DNS part of a kernel slot. Detectors look at what is asked for while names are unknown: those are always told. With
 * `isTold` known ones are told too.
 */
export function toDnsSlot(
  policy: CompiledDnsPolicy,
  objects: readonly KernelObject[] = [],
  isTold = false,
): {
  readonly entries: readonly KernelEntry[];
  readonly defaults: Pick<KernelDefaults, "domain">;
} {
  if (!policy.hasRule || policy.effect === Effect.DISABLE) return { entries: [], defaults: { domain: "allow" } };
  const byCustomRules = objects.flatMap(({ text, effect }): KernelEntry[] => {
    const pattern = parseDomainPattern(text);
    return pattern ? [entryOf(pattern, actionOf(effect))] : [];
  });
  const byList = policy.denied.map((pattern) => entryOf(pattern, actionOf(policy.effect)));
  const named = [...objects.flatMap(({ text }) => parseDomainPattern(text) ?? []), ...policy.denied];
  const denied = strongestOf([...byCustomRules, ...byList, ...unnamed(badNames(policy), named)]);
  const asked = encryptedDnsNames(policy);
  if (policy.state !== LearningState.ACTIVE) {
    const known = isTold ? [] : knownNames(policy).slice(0, KERNEL_LEARNED_MAX);
    return { entries: [...strongestOf([...denied, ...asked]), ...known], defaults: { domain: "ask" } };
  }
  const allowed = policy.allowed.map((pattern): KernelEntry => {
    const origin = { kind: "list", section: Section.DNS, matched: pattern.source } as const;
    return { ...entryOf(pattern, "allow"), origin };
  });
  // The kernel asks about everything below the part of a family's name that is fixed, and so refuses nothing there.
  const families = policy.items.filter(({ isPattern }) => isPattern).map(({ name }) => fixedEnd(name));
  const open = [...new Set(families)].map((text) => ({ kind: "suffix", text, action: "ask" }) as const);
  const fallback = policy.effect === Effect.ALERT ? "ask" : actionOf(policy.effect);
  return {
    entries: [...strongestOf([...denied, ...allowed, ...asked, ...open]), ...knownNames(policy)],
    defaults: { domain: fallback },
  };
}
