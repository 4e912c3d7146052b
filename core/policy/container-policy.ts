import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { Fact, ModelPolicy } from "#gen/gabion/model/v1/model_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import type { Rule } from "#gen/gabion/rule/v1/rule_pb.ts";
import { type Intel, NO_INTEL } from "../intel/intel-set.ts";
import { type CompiledCustomRules, compileCustomRules } from "./custom-rules.ts";
import { type CompiledDnsPolicy, compileDnsPolicy } from "./dns-policy.ts";
import { type CompiledFilePolicy, compileFilePolicy } from "./file-policy.ts";
import type { SectionPolicy } from "./finding.ts";
import { type CompiledNetworkPolicy, compileNetworkPolicy } from "./network-policy.ts";
import { type CompiledProcessPolicy, compileProcessPolicy } from "./process-policy.ts";
import { type CompiledSyscallPolicy, compileSyscallPolicy } from "./syscall-policy.ts";
import type { TreatmentSettings } from "./treatment.ts";

/** The resultant policy of a container over all sections. */
export interface CompiledContainerPolicy {
  readonly process: CompiledProcessPolicy;
  readonly network: CompiledNetworkPolicy;
  readonly dns: CompiledDnsPolicy;
  readonly filesystem: CompiledFilePolicy;
  readonly syscall: CompiledSyscallPolicy;
  /** They come before everything else of their sections. */
  readonly custom: CompiledCustomRules;
}

/** Sections in the order in which they are shown. */
export const SECTIONS = [Section.PROCESS, Section.NETWORK, Section.DNS, Section.FILESYSTEM, Section.SYSCALL] as const;

type Kind = Extract<Fact["kind"], { value: unknown }>;
type FactValues = { readonly [Case in Kind as Case["case"]]: Case["value"] };

function values<Case extends keyof FactValues>(
  model: ModelPolicy | undefined,
  section: Section,
  kind: Case,
): FactValues[Case][] {
  const facts = model?.sections.find((s) => s.section === section)?.facts ?? [];
  const found: unknown[] = facts.flatMap((fact) => (fact.kind.case === kind ? [fact.kind.value] : []));
  return found as FactValues[Case][];
}

/** What policy depends on beside rule and model. */
export interface Surroundings {
  /** Address of the Kubernetes API server that the container was told of. */
  readonly kubernetesApi?: string;
  /** Ranges that are the cluster's own, beside those that are nowhere the Internet's. */
  readonly internalRanges?: readonly string[];
  /** Addresses of the resolvers that the container was given; none where that is not known. */
  readonly resolvers?: readonly string[];
  readonly intel?: Intel;
  /** SHA-256 of the image's executables by path. */
  readonly imageHashes?: ReadonlyMap<string, string>;
}

/**
 * Composes model and rule. A section that the model does not have yet learns.
 */
export function compileContainerPolicy(
  rule: Rule | undefined,
  model: ModelPolicy | undefined,
  settings: TreatmentSettings,
  {
    kubernetesApi = "",
    internalRanges = [],
    resolvers = [],
    intel = NO_INTEL,
    imageHashes = new Map(),
  }: Surroundings = {},
): CompiledContainerPolicy {
  const base = (section: Section) => ({
    hasRule: rule !== undefined,
    state: model?.sections.find((s) => s.section === section)?.state ?? LearningState.LEARNING,
    settings,
  });
  const processes = values(model, Section.PROCESS, "process");
  return {
    custom: compileCustomRules(rule),
    process: compileProcessPolicy({
      ...base(Section.PROCESS),
      section: rule?.process,
      items: processes,
      intel,
      imageHashes,
    }),
    network: compileNetworkPolicy({
      ...base(Section.NETWORK),
      section: rule?.network,
      listening: values(model, Section.NETWORK, "listen"),
      outbound: values(model, Section.NETWORK, "outbound"),
      processes,
      kubernetesApi,
      internalRanges,
      intel,
    }),
    dns: compileDnsPolicy({
      ...base(Section.DNS),
      section: rule?.dns,
      items: values(model, Section.DNS, "domain"),
      intel,
      resolvers,
    }),
    filesystem: compileFilePolicy({
      ...base(Section.FILESYSTEM),
      section: rule?.filesystem,
      items: values(model, Section.FILESYSTEM, "file"),
      intel,
    }),
    syscall: compileSyscallPolicy({
      ...base(Section.SYSCALL),
      section: rule?.syscall,
      items: values(model, Section.SYSCALL, "syscall"),
    }),
  };
}

/** The part of a resultant policy that a section has. */
export function sectionPolicy(policy: CompiledContainerPolicy, section: Section): SectionPolicy {
  switch (section) {
    case Section.NETWORK:
      return policy.network;
    case Section.DNS:
      return policy.dns;
    case Section.FILESYSTEM:
      return policy.filesystem;
    case Section.SYSCALL:
      return policy.syscall;
    default:
      return policy.process;
  }
}
