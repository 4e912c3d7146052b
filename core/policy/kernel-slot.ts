import type { CompiledContainerPolicy } from "./container-policy.ts";
import { encryptedDnsEntries, toDnsSlot } from "./kernel-dns.ts";
import { type KernelDefaults, type KernelEntry, type RefusedPath, withoutHiding } from "./kernel-entry.ts";
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
  /** What opening is refused, for nodes that can. */
  readonly refused: readonly RefusedPath[];
}

/** Translates the resultant policy of a container for the kernel; `internal` are the cluster's own address ranges. */
export function toKernelSlot(policy: CompiledContainerPolicy, internal: readonly string[] = []): KernelSlot {
  const process = toProcessSlot(policy.process);
  const network = toNetworkSlot(policy.network);
  const dns = toDnsSlot(policy.dns);
  const file = toFileSlot(policy.filesystem);
  const syscall = toSyscallSlot(policy.syscall);
  return {
    entries: withoutHiding([
      ...process.entries,
      ...encryptedDnsEntries(policy.dns),
      ...internalEntries(policy.network.hasRule ? internal : []),
      ...network.entries,
      ...dns.entries,
      ...file.entries,
    ]),
    defaults: { ...process.defaults, ...network.defaults, ...dns.defaults, ...file.defaults, ...syscall.defaults },
    syscallsAllowed: syscall.allowed,
    syscallsDenied: syscall.denied,
    refused: [...refusedPrograms(policy.process), ...refusedFiles(policy.filesystem)],
  };
}
