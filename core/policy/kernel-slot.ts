import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { Intel } from "../intel/intel-set.ts";
import type { CompiledContainerPolicy } from "./container-policy.ts";
import { asksAbout, type CompiledCustomRules, type KernelObject, kernelShare } from "./custom-rules.ts";
import type { CompiledDnsPolicy } from "./dns-policy.ts";
import type { SectionPolicy } from "./finding.ts";
import { encryptedDnsEntries, resolverSlot, toDnsSlot } from "./kernel-dns.ts";
import {
  defaultsOf,
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
import type { CompiledNetworkPolicy } from "./network-policy.ts";

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

/** A slot that names nothing and does the same about everything. */
export function slotOf(action: KernelAction): KernelSlot {
  const none = { syscallsAllowed: [], syscallsDenied: [], intel: undefined, refused: [] };
  return { ...none, entries: [], defaults: defaultsOf(action) };
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

/** A section as the kernel sees it that does not know what is bad: intelligence may want more or less than the section. */
function knowing<
  Shared extends { readonly policy: CompiledNetworkPolicy | CompiledDnsPolicy; readonly isTold: boolean },
>(hasIntel: boolean, of: Shared): Shared {
  const { intel, detectors } = of.policy;
  if (hasIntel || !intel || detectors.intel.effect === Effect.DISABLE) return of;
  return { ...of, policy: { ...of.policy, state: LearningState.LEARNING }, isTold: true };
}

/** Raw sockets are told where a custom rule asks about them, though their detector may be off. */
function toldRaw(policy: SectionPolicy, custom: CompiledCustomRules, defaults: KernelDefaults): KernelDefaults {
  const isAsked = policy.hasRule && policy.effect !== Effect.DISABLE && asksAbout(custom, "rawSocket");
  const told = (action: KernelAction) => (action === "allow" ? "ask" : action);
  return isAsked ? { ...defaults, raw: told(defaults.raw), rawIcmp: told(defaults.rawIcmp) } : defaults;
}

/** What a kernel without room for everything does instead. */
export interface Room {
  /** False: sections that learn have the kernel tell everything, so that it needs no room for what the model has. */
  readonly hasLearned?: boolean;
  /** False: the kernel does not know what is bad, and asks about all that a rule does not deny. */
  readonly hasIntel?: boolean;
}

/** Translates the resultant policy of a container for the kernel; `internal` are the cluster's own address ranges. */
export function toKernelSlot(
  policy: CompiledContainerPolicy,
  internal: readonly string[] = [],
  { hasLearned = true, hasIntel = true }: Room = {},
): KernelSlot {
  const { custom } = policy;
  const ofProcess = shared(policy.process, Section.PROCESS, custom);
  const ofNetwork = knowing(hasIntel, shared(policy.network, Section.NETWORK, custom));
  const ofDns = knowing(hasIntel, shared(policy.dns, Section.DNS, custom));
  const ofFile = shared(policy.filesystem, Section.FILESYSTEM, custom);
  const ofSyscall = shared(policy.syscall, Section.SYSCALL, custom);
  const process = toProcessSlot(ofProcess.policy, ofProcess.objects);
  const network = toNetworkSlot(ofNetwork.policy, ofNetwork.objects, !hasLearned || ofNetwork.isTold);
  const dns = toDnsSlot(ofDns.policy, ofDns.objects, !hasLearned || ofDns.isTold);
  // Custom rules for look-ups say nothing of who is asked.
  const resolvers = resolverSlot(policy.dns);
  const file = toFileSlot(ofFile.policy, ofFile.objects, !hasLearned || ofFile.isTold);
  const syscall = toSyscallSlot(ofSyscall.policy, ofSyscall.objects);
  const defaults = {
    ...process.defaults,
    ...network.defaults,
    ...dns.defaults,
    foreignResolver: resolvers.action,
    ...file.defaults,
    ...syscall.defaults,
  };
  return {
    entries: withoutHiding([
      ...process.entries,
      ...encryptedDnsEntries(policy.dns),
      ...resolvers.entries,
      ...internalEntries(policy.network.hasRule ? internal : []),
      ...network.entries,
      ...dns.entries,
      ...file.entries,
    ]),
    defaults: toldRaw(policy.network, custom, defaults),
    intel: hasIntel ? (network.intel ?? dns.intel) : undefined,
    syscallsAllowed: syscall.allowed,
    syscallsDenied: syscall.denied,
    refused: [...refusedPrograms(ofProcess.policy, ofProcess.objects), ...refusedFiles(ofFile.policy, ofFile.objects)],
  };
}
