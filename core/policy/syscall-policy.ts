import { create } from "@bufbuild/protobuf";
import { type Fact, FactSchema, type LearningState, type SyscallFact } from "#gen/gabion/model/v1/model_pb.ts";
import { type Decision, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { SyscallSection } from "#gen/gabion/rule/v1/rule_pb.ts";
import {
  allowed,
  type Consideration,
  denial,
  deviation,
  inModel,
  type Ruling,
  rule,
  type SectionPolicy,
  toDecision,
} from "./finding.ts";
import type { TreatmentSettings } from "./treatment.ts";

/** What the system call part of a resultant policy is made of. */
export interface SyscallPolicyInput {
  readonly section: SyscallSection | undefined;
  readonly hasRule: boolean;
  readonly items: readonly SyscallFact[];
  readonly state: LearningState;
  readonly settings?: TreatmentSettings;
}

/** The resultant policy for system calls. */
export interface CompiledSyscallPolicy extends SyscallPolicyInput, SectionPolicy {
  readonly denied: ReadonlySet<string>;
  readonly allowed: ReadonlySet<string>;
  readonly known: ReadonlySet<string>;
}

/** The first use of a system call as policy looks at it. */
export interface SyscallEvent {
  readonly name: string;
  /** Of the 32-bit table: another fact than the same name of the other table. */
  readonly isCompat: boolean;
}

function key({ name, isCompat }: SyscallEvent): string {
  return isCompat ? `${name} 32` : name;
}

/** Compiles the resultant policy. A section that the rule leaves out is disabled. */
export function compileSyscallPolicy(input: SyscallPolicyInput): CompiledSyscallPolicy {
  return {
    ...input,
    effect: input.section?.effect ?? Effect.DISABLE,
    denied: new Set(input.section?.denied ?? []),
    allowed: new Set(input.section?.allowed ?? []),
    known: new Set(input.items.map(key)),
  };
}

function shown({ name, isCompat }: SyscallEvent): string {
  return `system call \`${name}\`${isCompat ? " (32-bit)" : ""}`;
}

const CONSIDERATIONS: readonly Consideration<CompiledSyscallPolicy, SyscallEvent>[] = [
  ["denied list", (p, e) => (p.denied.has(e.name) ? denial(p.effect, e.name, () => shown(e)) : undefined)],
  ["allowed list", (p, e) => (p.allowed.has(e.name) ? allowed(p.effect, e.name, () => shown(e)) : undefined)],
  [
    "model",
    (p, e) =>
      p.known.has(key(e))
        ? inModel(p.effect, e.name, () => shown(e))
        : deviation(p.effect, () => `${shown(e)} is not in the model`),
  ],
];

/** The ruling on the first use of a system call. A listed name means the call of both tables. */
export function ruleSyscall(policy: CompiledSyscallPolicy, event: SyscallEvent): Ruling {
  return rule(policy, "system call", CONSIDERATIONS, event);
}

/** What policy says of the first use of a system call. */
export function evaluateSyscall(policy: CompiledSyscallPolicy, event: SyscallEvent): Decision {
  return toDecision(ruleSyscall(policy, event));
}

/** What the first use of a system call teaches. */
export function syscallFact({ name, isCompat }: SyscallEvent): Fact {
  return create(FactSchema, { kind: { case: "syscall", value: { name, isCompat } } });
}
