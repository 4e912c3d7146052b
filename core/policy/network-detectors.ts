import { Transport } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { addressText } from "../matching/address.ts";
import { EPHEMERAL_FIRST, EPHEMERAL_LAST } from "../model/item-pattern.ts";
import { isLearning } from "../model/lifecycle.ts";
import { detection, type Finding } from "./finding.ts";
import { type ConnectEvent, destinationText, portText } from "./network-event.ts";
import type { CompiledNetworkPolicy } from "./network-policy.ts";

/** Where clouds answer with credentials (AWS, Google, Azure, OpenStack; AWS by IPv6). */
export const METADATA_ADDRESSES = ["169.254.169.254", "fd00:ec2::254"] as const;

/** The kubelet's ports: its API, and the one for reading only. Source: Kubernetes' "Ports and Protocols". */
export const KUBELET_PORTS = [10250, 10255] as const;

/**
 * Ports by which one workload takes over another, or its data: SSH, SMB, Docker (plain and TLS), etcd, MySQL, Remote Desktop,
 * PostgreSQL, Redis, the Kubernetes API on its nodes, MongoDB. The kubelet's are those of another detector.
 */
export const LATERAL_PORTS = [22, 445, 2375, 2376, 2379, 3306, 3389, 5432, 6379, 6443, 27017] as const;

/** A destination that hands out a cloud's credentials. */
export function findMetadata(policy: CompiledNetworkPolicy, event: ConnectEvent): Finding | undefined {
  const { effect, excepts } = policy.detectors.metadata_service;
  if (effect === Effect.DISABLE) return undefined;
  const address = addressText(event.address);
  if (!METADATA_ADDRESSES.some((known) => known === address) || excepts(address)) {
    return undefined;
  }
  return detection(effect, "metadata_service", false, `the cloud's metadata service \`${address}\` was contacted`);
}

/** The API server is known by its address, a kubelet by its port on any machine of the cluster. */
export function findKubernetes(policy: CompiledNetworkPolicy, event: ConnectEvent): Finding | undefined {
  const { effect, excepts } = policy.detectors.kubernetes_api;
  if (effect === Effect.DISABLE) return undefined;
  const address = addressText(event.address);
  const isServer = address === policy.kubernetesApi;
  const isKubelet =
    !event.isInternet && event.transport === Transport.TCP && KUBELET_PORTS.some((port) => port === event.port);
  if (!(isServer || isKubelet) || excepts(address)) return undefined;
  const what = isServer ? "the Kubernetes API server" : "a kubelet";
  return detection(effect, "kubernetes_api", false, `${what} was contacted: ${destinationText(event)}`);
}

/** A port that was contacted off the Internet while learning, or is of a family of such ports. */
function isInternalPort({ internalPorts }: CompiledNetworkPolicy, transport: Transport, port: number): boolean {
  const isEphemeral = port >= EPHEMERAL_FIRST && port <= EPHEMERAL_LAST;
  return internalPorts.has(portText(transport, port)) || (isEphemeral && internalPorts.has(portText(transport, 0)));
}

/** True where a complete model holds no such port off the Internet. Workloads change addresses, so that any will do. */
export function isNewWithin(
  policy: CompiledNetworkPolicy,
  { port, transport }: { readonly port: number; readonly transport: Transport },
): boolean {
  const isComplete = policy.hasRule && policy.state === LearningState.ACTIVE;
  return isComplete && !isInternalPort(policy, transport, port);
}

/** True where a port of lateral movement was never contacted while learning, at any address. */
export function isLateral(policy: CompiledNetworkPolicy, port: number): boolean {
  const isPort = LATERAL_PORTS.some((each) => each === port);
  return isPort && !isLearning(policy.state) && !isInternalPort(policy, Transport.TCP, port);
}

/** What a complete model does not hold, as a deviation is; that it is one at all off the Internet is the detector's word. */
export function findLateral(policy: CompiledNetworkPolicy, event: ConnectEvent): Finding | undefined {
  const { effect, excepts } = policy.detectors.lateral_movement;
  const isWithin = !event.isInternet && !event.isLoopback && event.transport === Transport.TCP;
  if (effect === Effect.DISABLE || !isWithin || !isLateral(policy, event.port)) return undefined;
  const address = addressText(event.address);
  const isKnown = policy.destinations.has(`${address} ${portText(event.transport, event.port)}`);
  if (isKnown || excepts(address, String(event.port))) return undefined;
  const message = `${destinationText(event)} was contacted, and this image contacts no such port of other workloads`;
  return { ...detection(effect, "lateral_movement", false, message), eventClass: "deviation" };
}
