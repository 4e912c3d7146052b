import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { DNS_OVER_TLS_PORT, ENCRYPTED_DNS_ADDRESSES, ENCRYPTED_DNS_NAMES } from "../detect/encrypted-dns.ts";
import type { Intel } from "../intel/intel-set.ts";
import { parsePrefix } from "../matching/address.ts";
import { compileDomainIndex, type DomainPattern, parseDomainPattern } from "../matching/domain.ts";
import { hasWildcard } from "../model/item-pattern.ts";
import { isLearning } from "../model/lifecycle.ts";
import type { KernelObject } from "./custom-rules.ts";
import type { CompiledDnsPolicy } from "./dns-policy.ts";
import {
  actionOf,
  detectorAction,
  KERNEL_LEARNED_MAX,
  type KernelAction,
  type KernelDefaults,
  type KernelEntry,
  strongestOf,
} from "./kernel-entry.ts";

type NameEntry = KernelEntry & { readonly kind: "domain" | "suffix"; readonly text: string };

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
 * Names of such resolvers are asked about or refused, whoever else may know or allow them; what a list or custom rule names
 * comes first.
 */
function encryptedDnsNames(policy: CompiledDnsPolicy, byCustomRules: readonly DomainPattern[]): NameEntry[] {
  const { effect, excepts } = policy.detectors.encrypted_dns;
  if (effect === Effect.DISABLE) return [];
  const custom = compileDomainIndex(byCustomRules);
  const isOthers = (name: string) =>
    excepts(name) || policy.lists.denied.find(name) !== undefined || custom.find(name) !== undefined;
  // Where it alerts that is an answer too: a question would leave the name to intelligence, which comes after.
  const action = policy.state === LearningState.ACTIVE ? actionOf(effect) : "ask";
  return ENCRYPTED_DNS_NAMES.filter((name) => !isOthers(name)).map((text) => ({ kind: "domain", text, action }));
}

/**
 * Who may be asked for names, and what is done about others. The kernel acts only once the model is active; while that learns
 * nobody is told of others either.
 */
export function resolverSlot({ hasRule, effect: own, detectors, ownResolvers, state, settings }: CompiledDnsPolicy): {
  readonly entries: readonly KernelEntry[];
  readonly action: KernelAction;
} {
  const { effect } = detectors.foreign_resolver;
  const isOff = !hasRule || own === Effect.DISABLE || effect === Effect.DISABLE || ownResolvers.length === 0;
  const isUntold = isLearning(state) && !settings?.auditsDetectionsWhileLearning;
  if (isOff || isUntold) return { entries: [], action: "allow" };
  const acts = state === LearningState.ACTIVE && effect !== Effect.ALERT;
  const entries = ownResolvers.map(
    ({ bytes, length }) => ({ kind: "resolver", bytes, prefix: length, action: "allow" }) as const,
  );
  return { entries, action: acts ? actionOf(effect) : "ask" };
}

/** Of a family's name the labels behind the last one with a star. */
function fixedEnd(name: string): string {
  const labels = name.split(".");
  return labels.slice(labels.findLastIndex((label) => hasWildcard(label)) + 1).join(".");
}

/** Names of the model. */
function knownNames(policy: CompiledDnsPolicy): KernelEntry[] {
  return policy.items
    .filter(({ isPattern }) => !isPattern)
    .map((item): KernelEntry => {
      const origin = { kind: "item", fact: { case: "domain", value: item } } as const;
      return { kind: "domain_item", text: item.name, recordType: item.recordType, action: "allow", origin };
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
  readonly defaults: Pick<KernelDefaults, "domain" | "badDomain">;
  readonly intel: Intel | undefined;
} {
  if (!policy.hasRule || policy.effect === Effect.DISABLE)
    return {
      entries: [],
      defaults: { domain: "allow", badDomain: "allow" },
      intel: undefined,
    };
  const custom = objects.flatMap(({ text, effect }) => {
    const pattern = parseDomainPattern(text);
    return pattern ? [{ pattern, effect }] : [];
  });
  const byCustomRules = custom.map(({ pattern, effect }) => entryOf(pattern, actionOf(effect)));
  const byList = policy.denied.map((pattern) => entryOf(pattern, actionOf(policy.effect)));
  const denied = strongestOf([...byCustomRules, ...byList]);
  const badDomain = detectorAction(policy, "intel");
  const intel = badDomain !== "allow" && policy.intel?.domains.size ? policy.intel : undefined;
  const known = knownNames(policy);
  const encrypted = encryptedDnsNames(
    policy,
    custom.map(({ pattern }) => pattern),
  );
  if (policy.state !== LearningState.ACTIVE) {
    const passed = isTold ? [] : known.slice(0, KERNEL_LEARNED_MAX);
    return {
      entries: [...strongestOf([...denied, ...encrypted]), ...passed],
      defaults: { domain: "ask", badDomain },
      intel,
    };
  }
  const allowed = policy.allowed.map((pattern): KernelEntry => {
    const origin = { kind: "list", section: Section.DNS, matched: pattern.source } as const;
    return { ...entryOf(pattern, "allow"), origin };
  });
  // The kernel asks about everything below the part of a family's name that is fixed, and so refuses nothing there.
  const families = policy.items.filter(({ isPattern }) => isPattern).map(({ name }) => fixedEnd(name));
  // What is allowed there comes before the model.
  const suffixes = new Set(policy.allowed.flatMap(({ name, isSuffix }) => (isSuffix ? [name] : [])));
  const open = [...new Set(families)]
    .filter((text) => !suffixes.has(text))
    .map((text) => ({ kind: "suffix", text, action: "ask" }) as const);
  const fallback = policy.effect === Effect.ALERT ? "ask" : actionOf(policy.effect);
  return {
    entries: [...strongestOf([...denied, ...allowed, ...encrypted, ...open]), ...known],
    defaults: { domain: fallback, badDomain },
    intel,
  };
}
