import { randomUUID } from "node:crypto";
import { create, fromJson, type JsonValue, toJson } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import type { Audit } from "#gen/gabion/audit/v1/audit_pb.ts";
import { type Verdict, VerdictAction, VerdictSchema } from "#gen/gabion/audit/v1/verdict_pb.ts";
import { type Bus, traceHeaders } from "#lib/bus/connection.ts";
import { seal } from "#lib/bus/envelope.ts";
import { verdictSubject } from "#lib/bus/topology.ts";
import type { Clock } from "#lib/flow/clock.ts";
import type { Signer } from "#lib/pki/signing.ts";
import { type FieldFault, invalidRequest } from "#lib/rpc/errors.ts";
import type { Collection, CollectionSpec } from "#lib/store/port.ts";
import { jsonCodec } from "#lib/store/proto-codec.ts";
import type { Logger } from "#lib/telemetry/log.ts";

/** A verdict, and whether it needs no more sending: answered by the node, or its time is over. */
interface VerdictRecord {
  readonly verdict: JsonValue;
  readonly isSettled: boolean;
  readonly deadlineMs: number;
}

export const VERDICTS: CollectionSpec<VerdictRecord> = {
  name: "verdicts",
  codec: jsonCodec(({ isSettled, deadlineMs }) => ({ isSettled, deadlineMs })),
  fields: { isSettled: {}, deadlineMs: {} },
};

/** How long a verdict may be carried out where its issuer names no deadline. */
const DEFAULT_DEADLINE_MS = 60_000;
const DEADLINE_MAX_MS = 24 * 3_600_000;
const RETRY_MAX = 100;

export interface VerdictsDependencies {
  readonly collection: Collection<VerdictRecord>;
  readonly bus: Bus;
  readonly signer: Signer;
  readonly clock: Clock;
  readonly logger: Logger;
}

function check(verdict: Verdict, nowMs: number): void {
  const faults: FieldFault[] = [];
  if (verdict.verdictId !== "") faults.push({ field: "verdict.verdict_id", message: "is set by the service" });
  if (verdict.action === VerdictAction.STOP_CONTAINER && verdict.containerId === "") {
    faults.push({ field: "verdict.container_id", message: "is needed to stop a container" });
  }
  if (verdict.action !== VerdictAction.STOP_CONTAINER) {
    faults.push({
      field: "verdict.action",
      message: "only stop_container can be carried out by agents of this version",
    });
  }
  const deadline = verdict.deadlineTime ? timestampMs(verdict.deadlineTime) : nowMs + DEFAULT_DEADLINE_MS;
  if (deadline <= nowMs || deadline > nowMs + DEADLINE_MAX_MS) {
    faults.push({ field: "verdict.deadline_time", message: "must be within the next 24 hours" });
  }
  if (faults.length > 0) throw invalidRequest(faults);
}

/** Orders to nodes: durable before they are sent, and sent again until the node answers or their time is over. */
export class Verdicts {
  readonly #deps: VerdictsDependencies;

  constructor(deps: VerdictsDependencies) {
    this.#deps = deps;
  }

  async issue(wanted: Verdict, issuedBy: string): Promise<Verdict> {
    const { clock, collection, logger } = this.#deps;
    const now = clock.now();
    check(wanted, now);
    const verdict = create(VerdictSchema, {
      ...wanted,
      verdictId: `v-${randomUUID()}`,
      issuedBy,
      issueTime: timestampFromMs(now),
      deadlineTime: wanted.deadlineTime ?? timestampFromMs(now + DEFAULT_DEADLINE_MS),
    });
    const deadlineMs = timestampMs(verdict.deadlineTime as NonNullable<typeof verdict.deadlineTime>);
    const record = { verdict: toJson(VerdictSchema, verdict), isSettled: false, deadlineMs };
    await collection.insert(verdict.verdictId, record);
    await this.#publish(verdict, deadlineMs).catch((err: unknown) => {
      logger.warn({ err, verdict: verdict.verdictId }, "verdict not sent yet");
    });
    return verdict;
  }

  /** Sends again what no node has answered yet, and settles what has no time left. */
  async retry(): Promise<void> {
    const { collection, clock } = this.#deps;
    const where = [{ field: "isSettled", is: "eq", value: false } as const];
    for (const { id, value, revision } of await collection.find({ where, limit: RETRY_MAX })) {
      const isOver = value.deadlineMs <= clock.now();
      if (isOver) await collection.replace(id, { ...value, isSettled: true }, revision);
      else await this.#publish(fromJson(VerdictSchema, value.verdict), value.deadlineMs);
    }
  }

  /** Notes the answers among audits that have become durable. */
  async settle(audits: readonly Audit[]): Promise<void> {
    for (const { system } of audits) {
      const stored = system?.verdictId ? await this.#deps.collection.get(system.verdictId) : undefined;
      if (!stored || stored.value.isSettled) continue;
      await this.#deps.collection
        .replace(stored.id, { ...stored.value, isSettled: true }, stored.revision)
        .catch(() => {});
    }
  }

  async #publish(verdict: Verdict, deadlineMs: number): Promise<void> {
    const { bus, signer, clock } = this.#deps;
    const subject = verdictSubject(verdict.nodeId);
    const envelope = seal(signer, VerdictSchema, verdict, {
      subject,
      revision: BigInt(clock.now()),
      nowMs: clock.now(),
      expiresMs: deadlineMs,
    });
    const connection = await bus.connection();
    connection.publish(subject, envelope, { headers: traceHeaders() });
    await connection.flush();
  }
}
