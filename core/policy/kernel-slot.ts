import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { Intel } from "../intel/intel-set.ts";
import type { CompiledContainerPolicy } from "./container-policy.ts";
import { asksAbout, type CompiledCustomRules, type KernelObject, kernelShare } from "./custom-rules.ts";
import type { SectionPolicy } from "./finding.ts";
import { encryptedDnsEntries, toDnsSlot } from "./kernel-dns.ts";
import {
  type KernelAction,
  type KernelDefaults,
  type KernelEntry,
  type RefusedPath,
  withoutHiding,
} from "./kernel-entry.ts";
import { refusedFiles, toFileSlot } from "./kernel-file.ts";
import { internalEntries, toNetworkSlot } from "./kernel-network.ts";
import { refusedPrograms, toProcessSlot } from "./kernel-process.ts";
import { toSyscallSlot } from "./kernel-syscall.ts";

export type { KernelAction, KernelDefaults, KernelEntry, RefusedPath } from "./kernel-entry.ts";

/** The part of a resultant policy that the kernel can decide by itself. */
export interface KernelSlot {
  readonly entries: readonly KernelEntry[];
  readonly defaults: KernelDefaults;
  /** Numbers of system calls; those of the 32-bit table follow after 512 others. */
  readonly syscallsAllowed: readonly number[];
  readonly syscallsDenied: readonly number[];
  /** Which is asked about destinations and names: the kernel has it in a slot of its own. None where that does not matter. */
  readonly intel: Intel | undefined;
  /** What opening is refused, for nodes that can. */
  readonly refused: readonly RefusedPath[];
}

/** Where a custom rule may do less than a detector with an effect of its own, the kernel leaves detectors to the agent. */
const WITH_ACTING_DETECTORS: readonly Section[] = [Section.NETWORK, Section.DNS, Section.FILESYSTEM];

/** A section as the kernel sees it beside custom rules, which come first. */
function shared<Policy extends SectionPolicy>(
  policy: Policy,
  section: Section,
  custom: CompiledCustomRules,
): { readonly policy: Policy; readonly objects: readonly KernelObject[]; readonly isTold: boolean } {
  const { isWeaker, isOpaque, objects } = kernelShare(custom, section, policy.effect);
  const effect = isWeaker && policy.effect !== Effect.DISABLE ? Effect.ALERT : policy.effect;
  const isTold = isOpaque || (isWeaker && WITH_ACTING_DETECTORS.includes(section));
  return { policy: { ...policy, effect, state: isTold ? LearningState.LEARNING : policy.state }, objects, isTold };
}

/** Raw sockets are told where a custom rule asks about them, though their detector may be off. */
function toldRaw(policy: SectionPolicy, custom: CompiledCustomRules, defaults: KernelDefaults): KernelDefaults {
  const isAsked = policy.hasRule && policy.effect !== Effect.DISABLE && asksAbout(custom, "rawSocket");
  const told = (action: KernelAction) => (action === "allow" ? "ask" : action);
  return isAsked ? { ...defaults, raw: told(defaults.raw), rawIcmp: told(defaults.rawIcmp) } : defaults;
}

/**
 * Translates the resultant policy of a container for the kernel; `internal` are the cluster's own address ranges. With
 * `isTold` sections that learn have the kernel tell everything, so that it needs no room for what the model has.
 */
export function toKernelSlot(
  policy: CompiledContainerPolicy,
  internal: readonly string[] = [],
  isTold = false,
): KernelSlot {
  const { custom } = policy;
  const ofProcess = shared(policy.process, Section.PROCESS, custom);
  const ofNetwork = shared(policy.network, Section.NETWORK, custom);
  const ofDns = shared(policy.dns, Section.DNS, custom);
  const ofFile = shared(policy.filesystem, Section.FILESYSTEM, custom);
  const ofSyscall = shared(policy.syscall, Section.SYSCALL, custom);
  const process = toProcessSlot(ofProcess.policy, ofProcess.objects);
  const network = toNetworkSlot(ofNetwork.policy, ofNetwork.objects, isTold || ofNetwork.isTold);
  const dns = toDnsSlot(ofDns.policy, ofDns.objects, isTold || ofDns.isTold);
  const file = toFileSlot(ofFile.policy, ofFile.objects, isTold || ofFile.isTold);
  const syscall = toSyscallSlot(ofSyscall.policy, ofSyscall.objects);
  const defaults = {
    ...process.defaults,
    ...network.defaults,
    ...dns.defaults,
    ...file.defaults,
    ...syscall.defaults,
  };
  return {
    entries: withoutHiding([
      ...process.entries,
      ...encryptedDnsEntries(policy.dns),
      ...internalEntries(policy.network.hasRule ? internal : []),
      ...network.entries,
      ...dns.entries,
      ...file.entries,
    ]),
    defaults: toldRaw(policy.network, custom, defaults),
    intel: network.intel ?? dns.intel,
    syscallsAllowed: syscall.allowed,
    syscallsDenied: syscall.denied,
    refused: [...refusedPrograms(ofProcess.policy, ofProcess.objects), ...refusedFiles(ofFile.policy, ofFile.objects)],
  };
}
