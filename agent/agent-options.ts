import type { DetectorSettings } from "#core/detect/settings.ts";
import type { TreatmentSettings } from "#core/policy/treatment.ts";
import type { Audit } from "#gen/gabion/audit/v1/audit_pb.ts";
import type { Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { ModelPolicy } from "#gen/gabion/model/v1/model_pb.ts";
import type { Decision } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";
import type { Logger } from "#lib/telemetry/log.ts";
import type { Observation } from "./pipeline/learner.ts";
import type { ContainerFrame } from "./wire/frames.ts";

/** What an agent stands on: made from its configuration by `main.ts`, or from parts by tests. */
export interface AgentOptions {
  readonly nodeId: string;
  /** Cluster of the node; empty outside Kubernetes. */
  readonly cluster?: string;
  readonly runId: string;
  readonly bootId: string;
  readonly scope: string;
  readonly cgroupMount: string;
  readonly holdMs: number;
  readonly holdsAll: boolean;
  readonly isMeasuring: boolean;
  readonly runcRoots: readonly string[];
  readonly runcBinary: string;
  readonly sensorBinary: string;
  /** Address ranges that are the cluster's own, beside the well-known ones that are not the Internet. */
  readonly internalRanges: readonly string[];
  /** How often presence and what was seen are reported. */
  readonly spanMs: number;
  readonly treatment?: TreatmentSettings;
  readonly detectors?: DetectorSettings;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly modelFor: (container: Container, signal?: AbortSignal) => Promise<ModelPolicy | undefined>;
  /** Sees every event of a container before it is judged. */
  readonly onFrame?: (frame: ContainerFrame) => void;
  readonly sendAudit: (audit: Audit) => void;
  readonly sendObservation: (observation: Observation) => void;
  /** Told of every decision that a rule had a part in, and how often it was made. */
  readonly onDecision?: (ruleId: string, decision: Decision, section: Section, count: number) => void;
}
