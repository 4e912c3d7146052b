import { create } from "@bufbuild/protobuf";
import { Section, Transport } from "#gen/gabion/event/v1/event_pb.ts";
import { FactSchema, LearningState, type ListenFact, type OutboundFact } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { type PortRange, PortRangeSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import type { Intel } from "../intel/intel-set.ts";
import { type AddressPrefix, isWithin, parsePrefix } from "../matching/address.ts";
import { EPHEMERAL_FIRST, EPHEMERAL_LAST, isFamily } from "../model/item-pattern.ts";
import type { KernelObject } from "./custom-rules.ts";
import {
  actionOf,
  detectorAction,
  type EntryOrigin,
  KERNEL_LEARNED_MAX,
  type KernelAction,
  type KernelDefaults,
  type KernelEntry,
  type PrefixKind,
  strongestOf,
} from "./kernel-entry.ts";
import { isLateral, KUBELET_PORTS, LATERAL_PORTS, METADATA_ADDRESSES } from "./network-detectors.ts";
import { type CompiledNetworkPolicy, rangeText } from "./network-policy.ts";

const PROTOCOLS: Partial<Record<Transport, number>> = { [Transport.TCP]: 6, [Transport.UDP]: 17 };
const PORT_BITS = 16;

/** Prefixes of 16 bits that cover exactly a range, both ends included: 30 at most. */
export function portPrefixes(first: number, last: number): { readonly port: number; readonly length: number }[] {
  const prefixes: { port: number; length: number }[] = [];
  let at = first;
  while (at <= last) {
    let size = at === 0 ? 1 << PORT_BITS : at & -at;
    while (at + size - 1 > last) size >>= 1;
    prefixes.push({ port: at, length: PORT_BITS - Math.log2(size) });
    at += size;
  }
  return prefixes;
}

type PortKind = Extract<PrefixKind, `listen_${string}` | `port_${string}`>;

function portEntry(
  kind: PortKind,
  action: KernelAction,
  protocol: number,
  { port, length }: { port: number; length: number },
): KernelEntry {
  return { kind, action, bytes: Uint8Array.of(protocol, port >> 8, port & 0xff), prefix: 8 + length };
}

/** A rule's range means both transports. */
function ranges(kind: PortKind, action: KernelAction, list: readonly PortRange[]): KernelEntry[] {
  return list.flatMap(({ first, last }) =>
    portPrefixes(first, last).flatMap((prefix) => [6, 17].map((protocol) => portEntry(kind, action, protocol, prefix))),
  );
}

function byList(matched: string): EntryOrigin {
  return { kind: "list", section: Section.NETWORK, matched };
}

function learned(kind: PortKind, facts: readonly (ListenFact | OutboundFact)[]): KernelEntry[] {
  return facts.flatMap((fact) => {
    const { transport, port } = fact;
    const protocol = PROTOCOLS[transport];
    if (protocol === undefined) return [];
    // Of ports that are connected to, 0 is the family of those that clients are given; listened on, it is the kernel's own 0.
    const prefixes =
      kind === "port_learned" && port === 0
        ? portPrefixes(EPHEMERAL_FIRST, EPHEMERAL_LAST)
        : [{ port, length: PORT_BITS }];
    const value =
      "address" in fact ? ({ case: "outbound", value: fact } as const) : ({ case: "listen", value: fact } as const);
    const origin: EntryOrigin = { kind: "item", fact: value };
    return prefixes.map((prefix) => ({ ...portEntry(kind, "allow", protocol, prefix), origin }));
  });
}

/**
 * Destinations off the Internet that the model has, each with its port: such facts exist to be read, and only a model that
 * learns has to know how often they are met.
 */
function learnedDestinations(facts: readonly OutboundFact[]): KernelEntry[] {
  return facts.flatMap((fact): KernelEntry[] => {
    const { transport, port } = fact;
    const protocol = PROTOCOLS[transport];
    const prefix = parsePrefix(fact.address);
    if (protocol === undefined || !prefix || isFamily(create(FactSchema, { kind: { case: "outbound", value: fact } })))
      return [];
    const origin: EntryOrigin = { kind: "item", fact: { case: "outbound", value: fact } };
    return [{ kind: "destination_item", address: prefix.bytes, protocol, port, action: "allow", origin }];
  });
}

/**
 * What a model that learns has already, but what the allowed list names. A direct connection is two facts at once, which one
 * entry cannot count.
 */
function knownWhileLearning({ listening, outbound, allowed }: CompiledNetworkPolicy): KernelEntry[] {
  // Port 0 is a family.
  const byPort = outbound.filter(({ address, port }) => address === "" && port !== 0).slice(0, KERNEL_LEARNED_MAX);
  const byAddress = outbound.filter(({ address }) => address !== "").slice(0, KERNEL_LEARNED_MAX);
  const listed = allowed.addresses.map(({ text }) => text);
  return [
    ...learned("listen_allowed", listening.slice(0, KERNEL_LEARNED_MAX)),
    ...ranges("port_allowed", "ask", allowed.outbound),
    ...addressEntries("address_allowed", "ask", listed),
    ...learned("port_learned", byPort),
    ...learnedDestinations(byAddress),
  ];
}

function addressEntries(
  kind: "address_denied" | "address_allowed" | "direct" | "internal",
  action: KernelAction,
  texts: readonly string[],
): KernelEntry[] {
  return texts.flatMap((text) => {
    const prefix = parsePrefix(text);
    return prefix ? [{ kind, action, bytes: prefix.bytes, prefix: prefix.length }] : [];
  });
}

function covers(prefix: AddressPrefix, text: string): boolean {
  const address = parsePrefix(text);
  return address !== undefined && isWithin(prefix, address.bytes);
}

function objectEntries(objects: readonly KernelObject[]): KernelEntry[] {
  return objects.flatMap(({ kind, text, effect }) => {
    const action = actionOf(effect);
    if (kind === "address") return addressEntries("address_denied", action, [text]);
    const port = Number(text);
    return port <= 65_535
      ? ranges("listen_denied", action, [create(PortRangeSchema, { first: port, last: port })])
      : [];
  });
}

function deniedEntries(policy: CompiledNetworkPolicy, objects: readonly KernelObject[]): KernelEntry[] {
  const action = actionOf(policy.effect);
  const { listening, outbound, addresses } = policy.denied;
  // Of two prefixes for the same address the longer decides: what a rule denies is not to be hidden by a detector's.
  const byCustomRules = objects.flatMap(({ kind, text }) => (kind === "address" ? (parsePrefix(text) ?? []) : []));
  const isDenied = (text: string) => [...addresses, ...byCustomRules].some((prefix) => covers(prefix, text));
  const isOn = policy.detectors.metadata_service.effect !== Effect.DISABLE;
  const metadata = isOn ? METADATA_ADDRESSES.filter((text) => !isDenied(text)) : [];
  const isKubernetes = policy.detectors.kubernetes_api.effect !== Effect.DISABLE;
  const kubernetes = detectorAction(policy, "kubernetes_api");
  const server = policy.kubernetesApi ?? "";
  const api = isKubernetes && server !== "" && !isDenied(server) ? [server] : [];
  const hasLateral = policy.detectors.lateral_movement.effect !== Effect.DISABLE;
  const lateral = hasLateral ? LATERAL_PORTS.filter((port) => isLateral(policy, port)) : [];
  return strongestOf([
    ...objectEntries(objects),
    ...lateral.map((port) =>
      portEntry("port_lateral", detectorAction(policy, "lateral_movement"), 6, { port, length: PORT_BITS }),
    ),
    ...addressEntries("address_denied", detectorAction(policy, "metadata_service"), metadata),
    ...addressEntries("address_denied", kubernetes, api),
    ...(isKubernetes ? KUBELET_PORTS : []).map((port) =>
      portEntry("port_internal", kubernetes, 6, { port, length: PORT_BITS }),
    ),
    ...ranges("listen_denied", action, listening),
    ...ranges("port_denied", action, outbound),
    ...addressEntries(
      "address_denied",
      action,
      addresses.map(({ text }) => text),
    ),
  ]);
}

function rawActions(policy: CompiledNetworkPolicy): Pick<KernelDefaults, "raw" | "rawIcmp"> {
  const raw = detectorAction(policy, "raw_socket");
  return { raw, rawIcmp: policy.knowsPing && raw !== "allow" ? "ask" : raw };
}

/** Ranges that are not the Internet beside the well-known ones: those of the cluster. */
export function internalEntries(ranges: readonly string[]): KernelEntry[] {
  return addressEntries("internal", "allow", ranges);
}

/** Entries of a rule's allowed list, each with the name that decisions give it. */
function listed<Item>(
  items: readonly Item[],
  textOf: (item: Item) => string,
  entriesOf: (item: Item) => KernelEntry[],
): KernelEntry[] {
  return items.flatMap((item) => entriesOf(item).map((entry) => ({ ...entry, origin: byList(textOf(item)) })));
}

/** The network part of a kernel slot. With `isTold` nothing that the agent is to hear of passes untold. */
export function toNetworkSlot(
  policy: CompiledNetworkPolicy,
  objects: readonly KernelObject[] = [],
  isTold = false,
): {
  readonly entries: readonly KernelEntry[];
  readonly defaults: Pick<
    KernelDefaults,
    "listen" | "connect" | "internal" | "direct" | "badAddress" | "raw" | "rawIcmp"
  >;
  readonly intel: Intel | undefined;
} {
  if (!policy.hasRule || policy.effect === Effect.DISABLE) {
    const off = { listen: "allow", connect: "allow", internal: "allow", direct: "allow", badAddress: "allow" } as const;
    return { entries: [], defaults: { ...off, raw: "allow", rawIcmp: "allow" }, intel: undefined };
  }
  const denied = deniedEntries(policy, objects);
  const byDetectors = { ...rawActions(policy), badAddress: detectorAction(policy, "intel") };
  const intel = byDetectors.badAddress !== "allow" && policy.intel?.prefixes.length ? policy.intel : undefined;
  if (policy.state !== LearningState.ACTIVE) {
    const asking = { listen: "ask", connect: "ask", internal: "ask", direct: "ask" } as const;
    const known = isTold ? [] : knownWhileLearning(policy);
    return { entries: [...denied, ...known], defaults: { ...asking, ...byDetectors }, intel };
  }
  const { listening, outbound, addresses } = policy.allowed;
  const fallback = policy.effect === Effect.ALERT ? "ask" : actionOf(policy.effect);
  return {
    entries: [
      ...denied,
      // Rare enough to be told each time: the journal then knows which ports of a range are in use.
      ...listed(listening, rangeText, (range) => ranges("listen_allowed", "ask", [range])),
      ...listed(outbound, rangeText, (range) => ranges("port_allowed", "allow", [range])),
      ...listed(
        addresses,
        ({ text }) => text,
        ({ text }) => addressEntries("address_allowed", "allow", [text]),
      ),
      ...learned("listen_allowed", policy.listening),
      ...learned(
        "port_learned",
        policy.outbound.filter(({ address }) => address === ""),
      ),
      ...addressEntries("direct", "allow", [...policy.directAddresses]),
    ],
    // An address without a look-up may be known from before it was watched: it is told, and never refused.
    defaults: { listen: fallback, connect: fallback, internal: "allow", direct: "ask", ...byDetectors },
    intel,
  };
}
