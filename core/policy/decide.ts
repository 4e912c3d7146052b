import { ContentState, type Event, type Process } from "#gen/gabion/event/v1/event_pb.ts";
import { type Decision, Reason } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import { scanObject } from "../detect/port-scan.ts";
import { addressText } from "../matching/address.ts";
import { AddressClasses } from "../matching/address-class.ts";
import { type CompiledContainerPolicy, sectionPolicy } from "./container-policy.ts";
import { ruleWithCustom } from "./custom-rules.ts";
import { ruleDnsQuery } from "./dns-policy.ts";
import { sectionOfEvent } from "./event-section.ts";
import { ruleFile } from "./file-policy.ts";
import { type Ruling, rulingOf, toDecision, unjudged } from "./finding.ts";
import { ruleConnect, ruleListen } from "./network-policy.ts";
import { NOTHING_SPECIAL, type ProcessEvent, toProcessEvent } from "./process-event.ts";
import { ruleProcess, ruleRedirect } from "./process-policy.ts";
import { rulePortScan, ruleRawSocket } from "./socket-policy.ts";
import { ruleSyscall } from "./syscall-policy.ts";

const CLASSES = new AddressClasses([]);

/** As the kernel has it, where 0.0.0.0 is the container itself too; but of the Internet it stands for no address. */
function isLoopback({ address, isInternet }: { readonly address: Uint8Array; readonly isInternet: boolean }): boolean {
  return !isInternet && CLASSES.of(address) === "loopback";
}

/** A program that runs already, one of whose standard streams became a connection. */
export function redirectedProcess(actor: Process | undefined, descriptor: number): ProcessEvent {
  const path = actor?.path ?? "";
  return {
    path,
    name: actor?.name ?? "",
    invokedPath: path,
    contentState: ContentState.UNKNOWN,
    sha256: "",
    parents: [],
    isScript: false,
    ...NOTHING_SPECIAL,
    stream: `its standard ${["input", "output", "error"][descriptor] ?? "stream"} became one`,
  };
}

/** The ruling of a section's lists, detectors and model on an event. */
function ruleSection(policy: CompiledContainerPolicy, { kind, actor }: Event): Ruling {
  switch (kind.case) {
    case "exec":
      return ruleProcess(policy.process, toProcessEvent(kind.value));
    case "streamRedirect":
      return ruleRedirect(policy.process, redirectedProcess(actor, kind.value.descriptor));
    case "connect":
      return ruleConnect(policy.network, { ...kind.value, isLoopback: isLoopback(kind.value) });
    case "listen":
      return ruleListen(policy.network, kind.value);
    case "rawSocket": {
      const who = { processPath: actor?.path ?? "", processName: actor?.name ?? "" };
      return ruleRawSocket(policy.network, { ...kind.value, ...who });
    }
    case "portScan": {
      const { isHorizontal, portCount, addressCount, samples } = kind.value;
      const message = isHorizontal ? `${addressCount} hosts were tried` : `${portCount} ports of one host were tried`;
      const [first] = samples;
      const exception = scanObject(isHorizontal, first && { ...first, address: addressText(first.address) });
      return rulePortScan(policy.network, message, exception);
    }
    case "dnsQuery":
      return ruleDnsQuery(policy.dns, kind.value);
    case "fileChange":
      return ruleFile(policy.filesystem, { ...kind.value, processPath: actor?.path ?? "" });
    case "syscallUse":
      return ruleSyscall(policy.syscall, kind.value);
    default:
      return rulingOf(policy.process, unjudged(Reason.NO_RULE, "events of this kind are told and never judged"));
  }
}

/** The ruling of a container's policy on an event: custom rules, then lists, detectors and model of the section. */
export function ruleEvent(policy: CompiledContainerPolicy, event: Event, container: Container): Ruling {
  const section = sectionPolicy(policy, sectionOfEvent(event));
  return ruleWithCustom(policy.custom, section, { event, container }, () => ruleSection(policy, event));
}

/** What a container's policy says of an event: the same answer as on its node, for explaining. */
export function decideEvent(policy: CompiledContainerPolicy, event: Event, container: Container): Decision {
  return toDecision(ruleEvent(policy, event, container));
}
