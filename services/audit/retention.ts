import type { Audit } from "#gen/gabion/audit/v1/audit_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";
import type { Collection } from "#lib/store/port.ts";
import { auditPosition } from "./audits.ts";

export interface RetentionLimits {
  /** Audits kept at most. */
  readonly maxCount: number;
  /** Age in ms after which an audit goes. */
  readonly maxAgeMs: number;
}

/** Removed in one step: small, so that writers are not held up. */
const SLICE = 2_000;

/** Removes audits that are too old or too many, oldest first. Answers how many went. */
export async function sweepAudits(
  collection: Collection<Audit>,
  limits: RetentionLimits,
  clock: Clock,
): Promise<number> {
  const oldestUs = (clock.now() - limits.maxAgeMs) * 1_000;
  let removed = 0;
  for (;;) {
    const count = await collection.deleteWhere([{ field: "receivedUs", is: "lt", value: oldestUs }], SLICE);
    removed += count;
    if (count < SLICE) break;
  }
  for (let excess = (await collection.count()) - limits.maxCount; excess > 0; excess -= SLICE) {
    const oldest = await collection.find({ orderBy: "receivedUs", limit: Math.min(excess, SLICE) });
    const last = oldest.at(-1);
    if (!last) break;
    const upTo = { field: "receivedUs", is: "lte", value: auditPosition(last.value) } as const;
    removed += await collection.deleteWhere([upTo], SLICE);
  }
  return removed;
}
