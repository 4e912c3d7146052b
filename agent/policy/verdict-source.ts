import { timestampMs } from "@bufbuild/protobuf/wkt";
import type { ConsumerMessages } from "@nats-io/jetstream";
import { type Verdict, VerdictSchema } from "#gen/gabion/audit/v1/verdict_pb.ts";
import type { Bus } from "#lib/bus/connection.ts";
import { EnvelopeError, unseal } from "#lib/bus/envelope.ts";
import { VERDICT_STREAM, verdictConsumer, verdictSubject } from "#lib/bus/topology.ts";
import type { Clock } from "#lib/flow/clock.ts";
import { repeatUntilAborted } from "#lib/flow/retry.ts";
import type { SignatureCheck } from "#lib/pki/signing.ts";
import type { Logger } from "#lib/telemetry/log.ts";
import type { AppliedRevisions } from "./applied-revisions.ts";

export interface VerdictSourceOptions {
  readonly bus: Bus;
  readonly nodeId: string;
  readonly check: SignatureCheck;
  readonly applied: AppliedRevisions;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Carries a verdict out; it is acknowledged afterwards. */
  readonly onVerdict: (verdict: Verdict) => Promise<void>;
}

/** Takes the node's verdicts from the bus: each verified, within its time, and carried out once. */
export class VerdictSource implements AsyncDisposable {
  readonly #options: VerdictSourceOptions;
  readonly #abort = new AbortController();
  readonly #consuming: Promise<void>;
  #messages: ConsumerMessages | undefined;
  #isToldOfFailure = false;

  constructor(options: VerdictSourceOptions) {
    this.#options = options;
    const onFailure = (err: unknown) => {
      // The consumer is made when the audit stream opens; until then this is no news.
      if (this.#isToldOfFailure) options.logger.debug({ err }, "verdicts are not there yet");
      this.#isToldOfFailure = true;
    };
    this.#consuming = repeatUntilAborted(() => this.#consume(), { signal: this.#abort.signal, onFailure });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort(new Error("the agent is ending"));
    this.#messages?.stop();
    await this.#consuming;
  }

  async #consume(): Promise<void> {
    const { bus, nodeId } = this.#options;
    const consumer = await bus.jetstream.consumers.get(VERDICT_STREAM, verdictConsumer(nodeId));
    this.#messages = await consumer.consume({ max_messages: 100, idle_heartbeat: 5_000, expires: 10_000 });
    for await (const message of this.#messages) {
      await this.#take(message.data);
      message.ack();
    }
  }

  async #take(envelope: Uint8Array): Promise<void> {
    const { check, nodeId, applied, clock, logger, onVerdict } = this.#options;
    const nowMs = clock.now();
    try {
      const subject = verdictSubject(nodeId);
      const options = { check, issuer: "service/audit", subject, appliedRevision: 0n, nowMs };
      const { message: verdict } = unseal(envelope, VerdictSchema, options);
      if (verdict.nodeId !== nodeId) throw new EnvelopeError(`the verdict is for node \`${verdict.nodeId}\``);
      if (applied.hasVerdict(verdict.verdictId)) return;
      const until = verdict.deadlineTime ? timestampMs(verdict.deadlineTime) : 0;
      if (until < nowMs) throw new EnvelopeError("the verdict's time is over");
      applied.addVerdict(verdict.verdictId, until, nowMs);
      await onVerdict(verdict);
    } catch (err) {
      logger.warn({ err }, "verdict refused");
    }
  }
}
