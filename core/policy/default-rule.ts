import { create } from "@bufbuild/protobuf";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import {
  type Detector,
  DetectorSchema,
  DnsSectionSchema,
  FilesystemSectionSchema,
  NetworkSectionSchema,
  ProcessSectionSchema,
  type Rule,
  RuleSchema,
  SyscallSectionSchema,
} from "#gen/gabion/rule/v1/rule_pb.ts";

/** The name that the seeds give it; it stands in audits. */
export const DEFAULT_RULE_NAME = "Default - alert on suspicious runtime behavior";

function detectors(on: readonly string[], off: readonly string[]): Record<string, Detector> {
  const entry = (effect: Effect) => (name: string) => [name, create(DetectorSchema, { effect })] as const;
  return Object.fromEntries([...on.map(entry(Effect.ALERT)), ...off.map(entry(Effect.DISABLE))]);
}

/** The one rule of a new installation. It says "use the models" and alerts; look-ups are left alone. */
export function defaultRule(): Rule {
  return create(RuleSchema, {
    name: DEFAULT_RULE_NAME,
    description: "Uses the models: alerts on what they do not hold and on suspicious behaviour.",
    process: create(ProcessSectionSchema, {
      effect: Effect.ALERT,
      detectors: detectors(
        ["drift", "crypto_miner", "reverse_shell", "lateral_movement", "intel"],
        ["setuid", "parent_check"],
      ),
    }),
    network: create(NetworkSectionSchema, {
      effect: Effect.ALERT,
      detectors: detectors(
        ["port_scan", "raw_socket", "intel"],
        ["metadata_service", "kubernetes_api", "lateral_movement"],
      ),
    }),
    dns: create(DnsSectionSchema, { effect: Effect.DISABLE }),
    filesystem: create(FilesystemSectionSchema, {
      effect: Effect.ALERT,
      detectors: detectors(["changed_binary", "account_files", "ssh_files", "loader_files", "malware"], []),
    }),
    syscall: create(SyscallSectionSchema, { effect: Effect.ALERT }),
  });
}
