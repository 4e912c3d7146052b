import { create } from "@bufbuild/protobuf";
import { TimestampSchema, timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { type Audit, AuditKind, AuditSchema, SystemEventSchema } from "#gen/gabion/audit/v1/audit_pb.ts";
import type { AuditFilter } from "#gen/gabion/audit/v1/audit_service_pb.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { Delivery } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";
import type { FanOut } from "#lib/flow/fan-out.ts";
import type { Collection, CollectionSpec, Condition } from "#lib/store/port.ts";
import { protoCodec } from "#lib/store/proto-codec.ts";

/** Microseconds of the time that orders audits: when they were received, made distinct within this process. */
function receivedUs(audit: Audit): number {
  const time = audit.receiveTime;
  return time ? Number(time.seconds) * 1_000_000 + Math.floor(time.nanos / 1_000) : 0;
}

export const AUDITS: CollectionSpec<Audit> = {
  name: "audits",
  codec: protoCodec(AuditSchema, (audit) => ({
    receivedUs: receivedUs(audit),
    nodeId: audit.nodeId,
    containerId: audit.container?.containerId ?? "",
    modelKey: audit.modelKey,
    ruleName: audit.ruleName,
    kind: audit.kind,
    section: audit.section,
    timeMs: audit.lastTime ? timestampMs(audit.lastTime) : 0,
  })),
  fields: {
    receivedUs: {},
    nodeId: { orderedBy: "receivedUs" },
    containerId: { orderedBy: "receivedUs" },
    modelKey: { orderedBy: "receivedUs" },
    ruleName: { orderedBy: "receivedUs" },
    kind: { orderedBy: "receivedUs" },
    section: { orderedBy: "receivedUs" },
  },
};

/** Position of an audit in the order of listing. */
export const auditPosition = receivedUs;

/** A filter as conditions of the store. */
export function toConditions(filter: AuditFilter | undefined): Condition[] {
  if (!filter) return [];
  const texts = {
    nodeId: filter.nodeId,
    containerId: filter.containerId,
    modelKey: filter.modelKey,
    ruleName: filter.ruleName,
  };
  const where: Condition[] = Object.entries(texts).flatMap(([field, value]) =>
    value === "" ? [] : [{ field, is: "eq", value }],
  );
  if (filter.kind !== AuditKind.UNSPECIFIED) where.push({ field: "kind", is: "eq", value: filter.kind });
  if (filter.section !== Section.UNSPECIFIED) where.push({ field: "section", is: "eq", value: filter.section });
  if (filter.startTime) where.push({ field: "timeMs", is: "gte", value: timestampMs(filter.startTime) });
  if (filter.endTime) where.push({ field: "timeMs", is: "lt", value: timestampMs(filter.endTime) });
  return where;
}

/** Whether an audit passes a filter, times apart. */
export function passes(filter: AuditFilter | undefined, audit: Audit): boolean {
  if (!filter) return true;
  const pairs: [string, string][] = [
    [filter.nodeId, audit.nodeId],
    [filter.containerId, audit.container?.containerId ?? ""],
    [filter.modelKey, audit.modelKey],
    [filter.ruleName, audit.ruleName],
  ];
  return (
    pairs.every(([wanted, is]) => wanted === "" || wanted === is) &&
    (filter.kind === AuditKind.UNSPECIFIED || filter.kind === audit.kind) &&
    (filter.section === Section.UNSPECIFIED || filter.section === audit.section)
  );
}

/** Identity of an audit: the same record sent twice has the same. */
export function auditId(audit: Audit): string {
  return `${audit.nodeId}:${audit.agentRunId}:${String(audit.chainSequence).padStart(12, "0")}`;
}

/** Audits made durable, each once, in the order of their coming. */
export class Audits {
  readonly #collection: Collection<Audit>;
  readonly #live: FanOut<Audit>;
  readonly #clock: Clock;
  #lastUs = 0;

  constructor(collection: Collection<Audit>, live: FanOut<Audit>, clock: Clock) {
    this.#collection = collection;
    this.#live = live;
    this.#clock = clock;
  }

  /** Writes what is not there yet, and tells watchers once it is durable. */
  async add(audits: readonly Audit[]): Promise<void> {
    const stamped = audits.map((audit) => this.#stamp(audit));
    const known = await Promise.all(stamped.map(({ auditId: id }) => this.#collection.get(id)));
    const fresh = stamped.filter((_, i) => known[i] === undefined);
    await this.#collection.insertMissing(fresh.map((value) => ({ id: value.auditId, value })));
    for (const audit of fresh) this.#live.send(audit);
  }

  /** An audit that this service writes itself, about a node. */
  async addOwn(nodeId: string, runId: string, name: string, message: string): Promise<void> {
    const now = timestampFromMs(this.#clock.now());
    await this.add([
      create(AuditSchema, {
        nodeId,
        agentRunId: `${runId}/${name}`,
        kind: AuditKind.SYSTEM,
        delivery: Delivery.AUDITED,
        message,
        count: 1n,
        firstTime: now,
        lastTime: now,
        system: create(SystemEventSchema, { name }),
      }),
    ]);
  }

  #stamp(audit: Audit): Audit {
    this.#lastUs = Math.max(this.#lastUs + 1, this.#clock.now() * 1_000);
    const seconds = Math.floor(this.#lastUs / 1_000_000);
    const nanos = (this.#lastUs - seconds * 1_000_000) * 1_000;
    const receiveTime = create(TimestampSchema, { seconds: BigInt(seconds), nanos });
    return create(AuditSchema, { ...audit, auditId: auditId(audit), receiveTime });
  }
}
