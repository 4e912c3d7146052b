import { timestampMs } from "@bufbuild/protobuf/wkt";
import { context } from "@opentelemetry/api";
import { type Verdict, VerdictSchema } from "#gen/gabion/audit/v1/verdict_pb.ts";
import { type Bus, carriedTrace } from "#lib/bus/connection.ts";
import { EnvelopeError, unseal } from "#lib/bus/envelope.ts";
import { verdictSubject } from "#lib/bus/topology.ts";
import type { Clock } from "#lib/flow/clock.ts";
import { aborted, repeatUntilAborted } from "#lib/flow/retry.ts";
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
  /** Carries a verdict out; the audit that tells the result is its acknowledgement. */
  readonly onVerdict: (verdict: Verdict) => Promise<void>;
}

/** Takes the node's verdicts from the bus: each verified, within its time, and carried out once. */
export class VerdictSource implements AsyncDisposable {
  readonly #options: VerdictSourceOptions;
  readonly #abort = new AbortController();
  readonly #listening: Promise<void>;

  constructor(options: VerdictSourceOptions) {
    this.#options = options;
    const onFailure = (err: unknown) => options.logger.debug({ err }, "verdicts cannot be heard yet");
    this.#listening = repeatUntilAborted((signal) => this.#listen(signal), { signal: this.#abort.signal, onFailure });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort(new Error("the agent is ending"));
    await this.#listening;
  }

  /** A subscription outlives the loss of its connection; what is sent meanwhile is sent again by its issuer. */
  async #listen(signal: AbortSignal): Promise<void> {
    const connection = await this.#options.bus.connection();
    const messages = connection.subscribe(verdictSubject(this.#options.nodeId));
    void aborted(signal).then(() => messages.unsubscribe());
    for await (const message of messages) {
      await context.with(carriedTrace(message.headers), () => this.#take(message.data));
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
