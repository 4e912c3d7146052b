import { type Decision, Effect, Reason } from "#gen/gabion/policy/v1/policy_pb.ts";
import { allowed, detection, type Finding, inModel, type Ruling, rule, toDecision, unjudged } from "./finding.ts";
import type { RawSocketEvent } from "./network-event.ts";
import { type CompiledNetworkPolicy, PING } from "./network-policy.ts";

const ICMP_PROTOCOLS = [1, 58];
const PACKET_FAMILIES: ReadonlyMap<number, string> = new Map([
  [17, "a packet socket"],
  [44, "an XDP socket"],
]);
const SOCK_RAW = 3;

/** A socket that is not raw is told because its transport is none whose connections are followed. */
function kindOf({ family, type }: RawSocketEvent): string {
  return (
    PACKET_FAMILIES.get(family) ?? (type === SOCK_RAW ? "a raw socket" : "a socket of a transport that is not followed")
  );
}

/** A model that holds `ping` allows what `ping` needs, and no more than that. */
function isKnownPing(policy: CompiledNetworkPolicy, { protocol, processPath, processName }: RawSocketEvent): boolean {
  return (
    ICMP_PROTOCOLS.includes(protocol) &&
    policy.processes.some(
      ({ path, name }) => PING.test(name) && path === processPath && (processName === "" || name === processName),
    )
  );
}

/** The ruling on a socket that goes around what looks at connections: a detector of its own, on by default. */
export function ruleRawSocket(policy: CompiledNetworkPolicy, event: RawSocketEvent): Ruling {
  const { effect, excepts } = policy.detectors.raw_socket;
  const what = kindOf(event);
  const find = (): Finding => {
    if (effect === Effect.DISABLE) return unjudged(Reason.SECTION_DISABLED, "the raw socket detector is off");
    if (isKnownPing(policy, event)) return inModel(policy.effect, event.processPath, () => "`ping`");
    if (excepts(event.processPath, event.processName)) {
      return allowed(effect, event.processPath, () => `${what} of \`${event.processPath}\``);
    }
    const message = `${what} (protocol ${event.protocol}) was opened by \`${event.processPath}\``;
    return detection(effect, "raw_socket", false, message);
  };
  const ruling = rule(policy, "network", [["raw socket detector", find]], event);
  return { ...ruling, treatment: { ...ruling.treatment, isLearned: false } };
}

/** What policy says of a raw or packet socket. */
export function evaluateRawSocket(policy: CompiledNetworkPolicy, event: RawSocketEvent): Decision {
  return toDecision(ruleRawSocket(policy, event));
}

/** The ruling on a port scan that was found. */
export function rulePortScan(policy: CompiledNetworkPolicy, message: string, destinationText: string): Ruling {
  const { effect, excepts } = policy.detectors.port_scan;
  const isOff = effect === Effect.DISABLE || excepts(destinationText);
  const finding = isOff
    ? unjudged(Reason.SECTION_DISABLED, "the port scan detector is off")
    : // Who scans has done so already: stopping its container is what the strongest effect can do.
      detection(effect, "port_scan", true, message);
  return rule(policy, "network", [["port scan detector", () => finding]], message);
}

/** What policy says of a port scan that was found. */
export function evaluatePortScan(policy: CompiledNetworkPolicy, message: string, destinationText: string): Decision {
  return toDecision(rulePortScan(policy, message, destinationText));
}
