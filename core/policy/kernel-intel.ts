import type { Intel } from "../intel/intel-set.ts";
import type { AddressPrefix } from "../matching/address.ts";
import type { KernelEntry } from "./kernel-entry.ts";
import { type KernelSlot, slotOf } from "./kernel-slot.ts";

function addresses(kind: "address_bad" | "address_excepted", list: readonly AddressPrefix[]): KernelEntry[] {
  return list.map(({ bytes, length }) => ({ kind, action: "ask", bytes, prefix: length }));
}

function domains(action: "ask" | "allow", names: Iterable<string>): KernelEntry[] {
  return [...names].map((text) => ({ kind: "domain_bad", text, action }));
}

/**
 * What the kernel knows of intelligence: which addresses and domains are bad, and which are excepted. What is done about
 * them each policy says.
 */
export function intelEntries(intel: Intel): KernelEntry[] {
  return [
    ...addresses("address_bad", intel.prefixes),
    ...addresses("address_excepted", intel.prefixExceptions),
    ...domains("ask", intel.domains.keys()),
    // Last: of two entries for one name the exception stays.
    ...domains("allow", intel.domainExceptions.keys()),
  ];
}

/** Intelligence as a slot of its own, to which no container is bound. */
export function toIntelSlot(intel: Intel): KernelSlot {
  return { ...slotOf("allow"), entries: intelEntries(intel) };
}
