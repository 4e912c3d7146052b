import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { syscallNumber } from "../syscall/names.ts";
import type { KernelObject } from "./custom-rules.ts";
import { actionOf, type KernelDefaults } from "./kernel-entry.ts";
import type { CompiledSyscallPolicy } from "./syscall-policy.ts";

/** Numbers of the 32-bit table come after so many others: GABION_SYSCALLS. */
const COMPAT_OFFSET = 512;

function numberOf(name: string, isCompat: boolean): number[] {
  const number = syscallNumber(name, isCompat);
  return number === undefined ? [] : [number + (isCompat ? COMPAT_OFFSET : 0)];
}

/** A listed name means the call of both tables. */
function numbersOf(names: Iterable<string>): number[] {
  return [...names].flatMap((name) => [...numberOf(name, false), ...numberOf(name, true)]);
}

/** The system call part of a kernel slot. */
export function toSyscallSlot(
  policy: CompiledSyscallPolicy,
  objects: readonly KernelObject[] = [],
): {
  readonly defaults: Pick<KernelDefaults, "syscall" | "syscallDenied">;
  readonly allowed: readonly number[];
  readonly denied: readonly number[];
} {
  if (!policy.hasRule || policy.effect === Effect.DISABLE) {
    return { defaults: { syscall: "allow", syscallDenied: "allow" }, allowed: [], denied: [] };
  }
  const denied = numbersOf([...policy.denied, ...objects.map(({ text }) => text)]);
  const syscallDenied = actionOf(policy.effect);
  if (policy.state !== LearningState.ACTIVE)
    return { defaults: { syscall: "ask", syscallDenied }, allowed: [], denied };
  const learned = policy.items.flatMap(({ name, isCompat }) => numberOf(name, isCompat));
  const syscall = policy.effect === Effect.ALERT ? "ask" : actionOf(policy.effect);
  return { defaults: { syscall, syscallDenied }, allowed: [...numbersOf(policy.allowed), ...learned], denied };
}
