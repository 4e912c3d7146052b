import { AckPolicy, DeliverPolicy, type JetStreamManager, RetentionPolicy, StorageType } from "@nats-io/jetstream";

/**
 * What goes over the bus and who may touch it. Names stand here once; permissions in the server's configuration are
 * made from them.
 */
export const POLICY_BUCKET = "gabion_policy";
export const VERDICT_STREAM = "gabion_verdicts";

/** Key of the rule set's head in the policy bucket, which is also the subject that its envelope must name. */
export const RULESET_KEY = "ruleset.current";

/** Key of a model's head. */
export function modelKeyOnBus(modelKey: string): string {
  return `models.${modelKey}`;
}

/** Subject of the verdicts for a node. */
export function verdictSubject(nodeId: string): string {
  return `verdicts.${nodeId}`;
}

/** Durable consumer of a node's verdicts; audit-service makes it, so that the node needs no right to make any. */
export function verdictConsumer(nodeId: string): string {
  return `node-${nodeId}`;
}

const VERDICT_AGE_NS = 24 * 3_600 * 1_000_000_000;
const ACK_WAIT_NS = 30 * 1_000_000_000;

/** Makes the stream of verdicts where it is missing. */
export async function ensureVerdictStream(manager: JetStreamManager): Promise<void> {
  const config = {
    name: VERDICT_STREAM,
    subjects: ["verdicts.>"],
    retention: RetentionPolicy.Limits,
    storage: StorageType.File,
    max_age: VERDICT_AGE_NS,
    max_msgs: 1_000_000,
    duplicate_window: 120 * 1_000_000_000,
  };
  const exists = await manager.streams.info(VERDICT_STREAM).then(
    () => true,
    () => false,
  );
  if (!exists) await manager.streams.add(config);
}

/** Makes the consumer of a node's verdicts where it is missing. */
export async function ensureVerdictConsumer(manager: JetStreamManager, nodeId: string): Promise<void> {
  await manager.consumers.add(VERDICT_STREAM, {
    durable_name: verdictConsumer(nodeId),
    filter_subject: verdictSubject(nodeId),
    ack_policy: AckPolicy.Explicit,
    deliver_policy: DeliverPolicy.All,
    ack_wait: ACK_WAIT_NS,
    max_ack_pending: 1_000,
  });
}
