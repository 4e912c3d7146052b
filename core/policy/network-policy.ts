import { isIP } from "node:net";
import { create } from "@bufbuild/protobuf";
import { Transport } from "#gen/gabion/event/v1/event_pb.ts";
import {
  type Fact,
  FactSchema,
  type LearningState,
  type ListenFact,
  type OutboundFact,
  type ProcessFact,
} from "#gen/gabion/model/v1/model_pb.ts";
import { type Decision, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { NetworkSection, PortRange } from "#gen/gabion/rule/v1/rule_pb.ts";
import { badText, findBadAddress, type Intel } from "../intel/intel-set.ts";
import { type AddressPrefix, addressText, isWithin, mappedAddress, parsePrefix } from "../matching/address.ts";
import { AddressClasses } from "../matching/address-class.ts";
import { type AddressIndex, compileAddressIndex, compilePortIndex, type PortIndex } from "../matching/number-index.ts";
import { EPHEMERAL_FIRST, EPHEMERAL_LAST } from "../model/item-pattern.ts";
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
  whereNamed,
} from "./finding.ts";
import { nearestItems } from "./nearest.ts";
import { findKubernetes, findLateral, findMetadata } from "./network-detectors.ts";
import { type ConnectEvent, destinationText, type ListenEvent, portText } from "./network-event.ts";
import type { TreatmentSettings } from "./treatment.ts";

/** What the network part of a resultant policy is made of. */
export interface NetworkPolicyInput {
  readonly section: NetworkSection | undefined;
  readonly hasRule: boolean;
  readonly listening: readonly ListenFact[];
  readonly outbound: readonly OutboundFact[];
  /** Allowed processes of the model: what `ping` may do is what the model says of it. */
  readonly processes: readonly ProcessFact[];
  /** Address of the Kubernetes API server that the container was told of; empty for none. */
  readonly kubernetesApi?: string;
  /** Ranges that are the cluster's own, beside those that are nowhere the Internet's. */
  readonly internalRanges?: readonly string[];
  readonly intel?: Intel;
  readonly state: LearningState;
  readonly settings?: TreatmentSettings;
}

interface Prefix extends AddressPrefix {
  readonly text: string;
}

interface CompiledNetworkEntries {
  readonly listening: readonly PortRange[];
  readonly outbound: readonly PortRange[];
  readonly addresses: readonly Prefix[];
  readonly index: { readonly listening: PortIndex; readonly outbound: PortIndex; readonly addresses: AddressIndex };
}

export const NETWORK_DETECTORS = [
  "raw_socket",
  "port_scan",
  "metadata_service",
  "kubernetes_api",
  "lateral_movement",
  "intel",
] as const;
export type NetworkDetector = (typeof NETWORK_DETECTORS)[number];

/** The resultant policy for the network: model + allowed − denied. */
export interface CompiledNetworkPolicy extends NetworkPolicyInput, SectionPolicy {
  readonly denied: CompiledNetworkEntries;
  readonly allowed: CompiledNetworkEntries;
  readonly detectors: Readonly<Record<NetworkDetector, CompiledDetector>>;
  /** Learned ports, as `portText` has them. */
  readonly listeningPorts: ReadonlySet<string>;
  readonly internetPorts: ReadonlySet<string>;
  /** Addresses of the Internet that were contacted without a look-up while learning. */
  readonly directAddresses: ReadonlySet<string>;
  /** Ports that were contacted off the Internet while learning. */
  readonly internalPorts: ReadonlySet<string>;
  /** Destinations that were contacted while learning, as address and port. */
  readonly destinations: ReadonlySet<string>;
  /** True where the model holds a program that goes by the name of `ping`. */
  readonly knowsPing: boolean;
}

/** Bits before those of an IPv4 address in its mapped form. */
const IPV4_BITS = 96;

/** Names of the program that sends ICMP echoes. */
export const PING = /^ping[46]?$/;

function compileEntries(entries: NetworkSection["allowed"]): CompiledNetworkEntries {
  const listening = entries?.listeningPorts ?? [];
  const outbound = entries?.outboundPorts ?? [];
  const addresses = (entries?.outboundAddresses ?? []).flatMap((text) => {
    const prefix = parsePrefix(text);
    return prefix ? [{ ...prefix, text }] : [];
  });
  return {
    listening,
    outbound,
    addresses,
    index: {
      listening: compilePortIndex(listening),
      outbound: compilePortIndex(outbound),
      addresses: compileAddressIndex(addresses),
    },
  };
}

/** An address as events have it. */
function canonicalAddress(text: string): string {
  const parsed = isIP(text) === 6 ? parsePrefix(text) : undefined;
  return parsed ? addressText(parsed.bytes) : text;
}

/** Compiles the resultant policy. A section that the rule leaves out is disabled. */
export function compileNetworkPolicy(input: NetworkPolicyInput): CompiledNetworkPolicy {
  const effect = input.section?.effect ?? Effect.DISABLE;
  const detectors = NETWORK_DETECTORS.map(
    (name) => [name, compileDetector(input.section?.detectors[name], effect)] as const,
  );
  const classes = new AddressClasses(input.internalRanges ?? []);
  const isInternal = (address: string) => {
    const prefix = parsePrefix(address);
    return prefix !== undefined && classes.of(prefix.bytes) === "internal";
  };
  const outbound = input.outbound.map((fact) => [fact.address, portText(fact.transport, fact.port)] as const);
  return {
    ...input,
    effect,
    denied: compileEntries(input.section?.denied),
    allowed: compileEntries(input.section?.allowed),
    detectors: Object.fromEntries(detectors) as Record<NetworkDetector, CompiledDetector>,
    listeningPorts: new Set(input.listening.map(({ transport, port }) => portText(transport, port))),
    internetPorts: new Set(outbound.flatMap(([address, port]) => (address === "" ? [port] : []))),
    internalPorts: new Set(outbound.flatMap(([address, port]) => (isInternal(address) ? [port] : []))),
    destinations: new Set(outbound.map((pair) => pair.join(" "))),
    // A family of addresses is of those within, which are not judged.
    directAddresses: new Set(
      outbound.flatMap(([address]) => (address === "" || address.includes("/") ? [] : [address])),
    ),
    kubernetesApi: canonicalAddress(input.kubernetesApi ?? ""),
    knowsPing: input.processes.some(({ name }) => PING.test(name)),
  };
}

/** A range of ports as decisions name it. */
export function rangeText({ first, last }: PortRange): string {
  return first === last ? String(first) : `${first}-${last}`;
}

/** What is known of a port of the Internet is of no address in particular, which 0.0.0.0 stands for: nobody connects to it. */
function isOfNoAddress({ address, isInternet }: ConnectEvent): boolean {
  return isInternet && address.length === 4 && address.every((byte) => byte === 0);
}

/** The first prefix around an address; of none in particular only one of all addresses. */
function findPrefix({ addresses, index }: CompiledNetworkEntries, event: ConnectEvent): Prefix | undefined {
  if (!isOfNoAddress(event)) return addresses[index.addresses.find(event.address)];
  return addresses.find((prefix) => prefix.length <= IPV4_BITS && isWithin(prefix, mappedAddress(event.address)));
}

/** Denied and allowed addresses apply to every destination, ports only to those of the Internet. */
function findListed(entries: CompiledNetworkEntries, event: ConnectEvent): string | undefined {
  const prefix = findPrefix(entries, event);
  if (prefix) return prefix.text;
  const range = event.isInternet ? entries.outbound[entries.index.outbound.find(event.port)] : undefined;
  return range && rangeText(range);
}

function findKnownDestination(policy: CompiledNetworkPolicy, event: ConnectEvent): Finding {
  const shown = () => destinationText(event);
  if (!event.isInternet) return unjudgedDestination(policy, event, shown);
  const port = portText(event.transport, event.port);
  const isEphemeral = event.port >= EPHEMERAL_FIRST && event.port <= EPHEMERAL_LAST;
  const isFamily = isEphemeral && policy.internetPorts.has(portText(event.transport, 0));
  if (event.port === 0 || (!isFamily && !policy.internetPorts.has(port))) {
    return deviation(policy.effect, () => `${shown()} is outside the model: port ${port} of the Internet is not in it`);
  }
  if (event.isDirect && !policy.directAddresses.has(addressText(event.address))) {
    // An address may be known to a program from before it was watched: nobody is stopped for that.
    const effect = policy.effect === Effect.DISABLE ? Effect.DISABLE : Effect.ALERT;
    const message = () => `${shown()} was contacted without a look-up, and the address is not in the model`;
    return { ...deviation(effect, message), effectAsked: policy.effect };
  }
  return inModel(policy.effect, port, shown);
}

/** Port checks are for the Internet; within the cluster a destination is only recorded. */
function unjudgedDestination(policy: CompiledNetworkPolicy, event: ConnectEvent, shown: () => string): Finding {
  const where = event.isLoopback ? "the container itself" : "no Internet destination";
  const message = () => `${shown()} is ${where}: only denied addresses apply`;
  return { ...inModel(policy.effect, "", shown), message };
}

/** Intelligence comes after the allowed list, which exists to correct it. It is of every destination. */
function findBadDestination(policy: CompiledNetworkPolicy, event: ConnectEvent): Finding | undefined {
  const { effect, excepts } = policy.detectors.intel;
  if (!policy.intel || effect === Effect.DISABLE || isOfNoAddress(event)) return undefined;
  const bad = findBadAddress(policy.intel, event.address);
  if (!bad || excepts(addressText(event.address), bad.value)) return undefined;
  const message = `${destinationText(event)} is within the bad addresses \`${bad.value}\`, ${badText(bad)}`;
  return detection(effect, "intel", true, message);
}

const CONNECT: readonly Consideration<CompiledNetworkPolicy, ConnectEvent>[] = [
  ["denied list", (p, e) => whereNamed(findListed(p.denied, e), (m) => denial(p.effect, m, () => destinationText(e)))],
  ["metadata service detector", findMetadata],
  ["Kubernetes detector", findKubernetes],
  ["lateral movement detector", findLateral],
  [
    "allowed list",
    (p, e) => whereNamed(findListed(p.allowed, e), (m) => allowed(p.effect, m, () => destinationText(e))),
  ],
  ["intelligence", findBadDestination],
  ["model", findKnownDestination],
];

/** The ruling on a connection or datagram. */
export function ruleConnect(policy: CompiledNetworkPolicy, event: ConnectEvent): Ruling {
  return rule(policy, "network", CONNECT, event, () => nearestPorts(policy, event));
}

/** What policy says of a connection or datagram. */
export function evaluateConnect(policy: CompiledNetworkPolicy, event: ConnectEvent): Decision {
  return toDecision(ruleConnect(policy, event));
}

function nearestPorts(policy: CompiledNetworkPolicy, { port }: { port: number }) {
  return nearestItems(
    policy.outbound.filter(({ address }) => address === ""),
    (fact) => Math.abs(fact.port - port),
    (fact) => portText(fact.transport, fact.port),
    () => "another port",
  );
}

function listening({ transport, port }: ListenEvent): string {
  return `listening on ${portText(transport, port)}`;
}

/** Port 0 stands for all those that the kernel chooses, in models and in allowed lists. */
function portsOf({ port, isEphemeral }: ListenEvent): number[] {
  return isEphemeral ? [port, 0] : [port];
}

function findPort({ listening: ranges, index }: CompiledNetworkEntries, ports: readonly number[]): string | undefined {
  const place = ports.map((port) => index.listening.find(port)).find((found) => found >= 0) ?? -1;
  const range = ranges[place];
  return range && rangeText(range);
}

function findKnownPort(policy: CompiledNetworkPolicy, event: ListenEvent): Finding {
  const names = portsOf(event).map((port) => portText(event.transport, port));
  const known = names.find((name) => policy.listeningPorts.has(name));
  return known === undefined
    ? deviation(policy.effect, () => `${listening(event)} is not in the model`)
    : inModel(policy.effect, known, () => listening(event));
}

const LISTEN: readonly Consideration<CompiledNetworkPolicy, ListenEvent>[] = [
  ["denied list", (p, e) => whereNamed(findPort(p.denied, [e.port]), (m) => denial(p.effect, m, () => listening(e)))],
  [
    "allowed list",
    (p, e) => whereNamed(findPort(p.allowed, portsOf(e)), (m) => allowed(p.effect, m, () => listening(e))),
  ],
  ["model", findKnownPort],
];

/** The ruling on a socket that listens. */
export function ruleListen(policy: CompiledNetworkPolicy, event: ListenEvent): Ruling {
  return rule(policy, "network", LISTEN, event, () =>
    nearestItems(
      policy.listening,
      (fact) => Math.abs(fact.port - event.port),
      (fact) => portText(fact.transport, fact.port),
      () => "another port",
    ),
  );
}

/** What policy says of a socket that listens. */
export function evaluateListen(policy: CompiledNetworkPolicy, event: ListenEvent): Decision {
  return toDecision(ruleListen(policy, event));
}

/** What a connection teaches: a port of the Internet, or an address within; an address without a look-up besides. */
export function connectFacts(event: ConnectEvent): Fact[] {
  // Nothing is reached at port 0, which stands for a family in models.
  if (event.isLoopback || event.port === 0) return [];
  const outbound = (address: string) =>
    create(FactSchema, {
      kind: { case: "outbound", value: { transport: event.transport, port: event.port, address } },
    });
  const address = addressText(event.address);
  if (!event.isInternet) return [outbound(address)];
  return event.isDirect ? [outbound(""), outbound(address)] : [outbound("")];
}

/** What a listening socket teaches; ports that the kernel chooses are one fact. */
export function listenFact({ transport, port, isEphemeral }: ListenEvent): Fact {
  const value = { transport, port: isEphemeral ? 0 : port };
  return create(FactSchema, { kind: { case: "listen", value } });
}

/** Transport by protocol number. */
export function transportOf(protocol: number): Transport {
  if (protocol === 6) return Transport.TCP;
  return protocol === 17 ? Transport.UDP : Transport.UNSPECIFIED;
}
