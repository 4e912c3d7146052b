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
  judge,
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

/** What policy says of the first use of a system call. A listed name means the call of both tables. */
export function evaluateSyscall(policy: CompiledSyscallPolicy, event: SyscallEvent): Decision {
  const shown = `system call \`${event.name}\`${event.isCompat ? " (32-bit)" : ""}`;
  const { name } = event;
  const considerations: readonly Consideration<SyscallEvent>[] = [
    ["denied list", () => (policy.denied.has(name) ? denial(policy.effect, name, shown) : undefined)],
    ["allowed list", () => (policy.allowed.has(name) ? allowed(policy.effect, name, shown) : undefined)],
    [
      "model",
      (e) =>
        policy.known.has(key(e))
          ? inModel(policy.effect, name, shown)
          : deviation(policy.effect, `${shown} is not in the model`),
    ],
  ];
  return toDecision(policy, judge(policy, "system call", considerations, event));
}

/** What the first use of a system call teaches. */
export function syscallFact({ name, isCompat }: SyscallEvent): Fact {
  return create(FactSchema, { kind: { case: "syscall", value: { name, isCompat } } });
}
