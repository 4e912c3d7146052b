import { randomUUID } from "node:crypto";
import { create, fromJson, type JsonValue, toJson } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { type Verdict, VerdictAction, VerdictSchema } from "#gen/gabion/audit/v1/verdict_pb.ts";
import { type Bus, traceHeaders } from "#lib/bus/connection.ts";
import { seal } from "#lib/bus/envelope.ts";
import { ensureVerdictConsumer, ensureVerdictStream, verdictSubject } from "#lib/bus/topology.ts";
import type { Clock } from "#lib/flow/clock.ts";
import type { Signer } from "#lib/pki/signing.ts";
import { type FieldFault, invalidRequest } from "#lib/rpc/errors.ts";
import type { Collection, CollectionSpec } from "#lib/store/port.ts";
import { jsonCodec } from "#lib/store/proto-codec.ts";
import type { Logger } from "#lib/telemetry/log.ts";

/** A verdict and whether the bus has taken it. */
interface VerdictRecord {
  readonly verdict: JsonValue;
  readonly isPublished: boolean;
  readonly deadlineMs: number;
}

export const VERDICTS: CollectionSpec<VerdictRecord> = {
  name: "verdicts",
  codec: jsonCodec(({ isPublished, deadlineMs }) => ({ isPublished, deadlineMs })),
  fields: { isPublished: {}, deadlineMs: {} },
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

/** Orders to nodes: durable before they are published, published again until the bus has them or their time is over. */
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
    const record = { verdict: toJson(VerdictSchema, verdict), isPublished: false, deadlineMs };
    const stored = await collection.insert(verdict.verdictId, record);
    await this.#publish(verdict, deadlineMs)
      .then(() => collection.replace(stored.id, { ...record, isPublished: true }, stored.revision))
      .catch((err: unknown) => logger.warn({ err, verdict: verdict.verdictId }, "verdict not published yet"));
    return verdict;
  }

  /** Publishes what the bus has not taken yet. */
  async retry(): Promise<void> {
    const { collection, clock } = this.#deps;
    const where = [{ field: "isPublished", is: "eq", value: false } as const];
    for (const { id, value, revision } of await collection.find({ where, limit: RETRY_MAX })) {
      if (value.deadlineMs > clock.now()) await this.#publish(fromJson(VerdictSchema, value.verdict), value.deadlineMs);
      await collection.replace(id, { ...value, isPublished: true }, revision);
    }
  }

  /** Makes what a node needs to get its verdicts. */
  async prepareNode(nodeId: string): Promise<void> {
    const manager = await this.#deps.bus.manager();
    await ensureVerdictStream(manager);
    await ensureVerdictConsumer(manager, nodeId);
  }

  async #publish(verdict: Verdict, deadlineMs: number): Promise<void> {
    const { bus, signer, clock } = this.#deps;
    const subject = verdictSubject(verdict.nodeId);
    await this.prepareNode(verdict.nodeId);
    const envelope = seal(signer, VerdictSchema, verdict, {
      subject,
      revision: BigInt(clock.now()),
      nowMs: clock.now(),
      expiresMs: deadlineMs,
    });
    await bus.jetstream.publish(subject, envelope, { msgID: verdict.verdictId, headers: traceHeaders() });
  }
}
