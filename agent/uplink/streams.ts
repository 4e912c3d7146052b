import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { Client } from "@connectrpc/connect";
import { type Audit, AuditSchema } from "#gen/gabion/audit/v1/audit_pb.ts";
import {
  type AuditService,
  type SubmitAuditsRequest,
  SubmitAuditsRequestSchema,
} from "#gen/gabion/audit/v1/audit_service_pb.ts";
import { type AgentHello, AgentHelloSchema, type Capabilities, type Enforced } from "#gen/gabion/fleet/v1/fleet_pb.ts";
import { JournalNoteSchema, ObservedFactSchema, SeenUnitSchema } from "#gen/gabion/model/v1/model_pb.ts";
import { type ModelService, type ObserveRequest, ObserveRequestSchema } from "#gen/gabion/model/v1/model_service_pb.ts";
import type { Logger } from "#lib/telemetry/log.ts";
import type { Observation } from "../pipeline/learner.ts";
import { WIRE_VERSION } from "../wire/layout.ts";
import { Uplink } from "./uplink.ts";

const PROTOCOL_VERSION = 1;
/** A presence span, presence or report of revisions. */
const SMALL_BYTES = 4_096;

/** Batches leave when they hold this many items, or after this time: audits are news, observations are not. */
const AUDITS = { maxBatchItems: 256, maxDelayMs: 20, capacity: 50_000 };
const OBSERVATIONS = { maxBatchItems: 256, maxDelayMs: 1_000, capacity: 100_000 };

/** Who speaks, and what can be said of it now. */
export interface Speaker {
  readonly nodeId: string;
  readonly bootId: string;
  readonly runId: string;
  readonly version: string;
  readonly capabilities: () => Capabilities;
  readonly hasSensor: () => boolean;
}

function makeHello(speaker: Speaker): AgentHello {
  return create(AgentHelloSchema, {
    protocolVersion: PROTOCOL_VERSION,
    nodeId: speaker.nodeId,
    bootId: speaker.bootId,
    agentRunId: speaker.runId,
    agentVersion: speaker.version,
    sensorVersion: speaker.hasSensor() ? WIRE_VERSION : 0,
    capabilities: speaker.capabilities(),
    sendTime: timestampFromMs(Date.now()),
    hasSensor: speaker.hasSensor(),
  });
}

/** The stream of audits. */
export function openAuditUplink(
  client: Client<typeof AuditService>,
  reset: () => void,
  speaker: Speaker,
  logger: Logger,
): Uplink<Audit, SubmitAuditsRequest> {
  return new Uplink<Audit, SubmitAuditsRequest>({
    ...AUDITS,
    reset,
    sizeOf: (audit) => toBinary(AuditSchema, audit).length,
    name: "audit-service",
    logger,
    open: (requests, signal) => client.submitAudits(requests, { signal }),
    makeHello: () => create(SubmitAuditsRequestSchema, { hello: makeHello(speaker) }),
    makeBatch: (audits, sequence, lostAuditCount) =>
      create(SubmitAuditsRequestSchema, { sequence, audits: [...audits], lostAuditCount }),
  });
}

function valuesOf<K extends Observation["kind"]>(items: readonly Observation[], kind: K) {
  type Value = Extract<Observation, { kind: K }>["value"];
  return items.flatMap((item) => (item.kind === kind ? [item.value as Value] : []));
}

/** Facts and seen units carry texts from containers; the rest is small. */
function sizeOfObservation({ kind, value }: Observation): number {
  if (kind === "fact") return toBinary(ObservedFactSchema, value).length;
  if (kind === "journal") return toBinary(JournalNoteSchema, value).length;
  return kind === "seen" ? toBinary(SeenUnitSchema, value).length : SMALL_BYTES;
}

/** The stream of observations. */
export function openObservationUplink(
  client: Client<typeof ModelService>,
  reset: () => void,
  speaker: Speaker,
  logger: Logger,
): Uplink<Observation, ObserveRequest> {
  return new Uplink<Observation, ObserveRequest>({
    ...OBSERVATIONS,
    reset,
    sizeOf: sizeOfObservation,
    name: "model-service",
    logger,
    open: (requests, signal) => client.observe(requests, { signal }),
    makeHello: () => create(ObserveRequestSchema, { hello: makeHello(speaker) }),
    makeBatch: (items, sequence, lostItemCount) => {
      const enforced: Enforced | undefined = valuesOf(items, "enforced").at(-1);
      const batch: MessageInitShape<typeof ObserveRequestSchema> = {
        sequence,
        facts: valuesOf(items, "fact"),
        seenUnits: valuesOf(items, "seen"),
        presenceSpans: valuesOf(items, "span"),
        containers: valuesOf(items, "presence"),
        journal: valuesOf(items, "journal"),
        lostItemCount,
        ...(enforced ? { enforced } : {}),
      };
      return create(ObserveRequestSchema, batch);
    },
  });
}
