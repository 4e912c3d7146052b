import { createHash } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import { BodyHeadSchema } from "#gen/gabion/bus/v1/envelope_pb.ts";
import type { Clock } from "../flow/clock.ts";
import type { Signer } from "../pki/signing.ts";
import type { Logger } from "../telemetry/log.ts";
import { seal } from "./envelope.ts";
import type { PolicyBucket } from "./policy-bucket.ts";

/** A body that agents fetch, as it stands in the store. */
export interface PublishedBody {
  readonly key: string;
  readonly revision: bigint;
  readonly body: Uint8Array;
}

export interface HeadPublisherOptions {
  readonly bucket: () => Promise<PolicyBucket>;
  readonly signer: Signer;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Everything that should be published, from the store. */
  readonly all: () => AsyncIterable<PublishedBody>;
}

const RETRY_MS = 1_000;
const RECONCILE_MS = 30_000;
/** Keys waiting for a retry; beyond it the next reconcile finds them. */
const DIRTY_MAX = 10_000;

/**
 * Keeps the signed heads on the bus equal to what the store says. A publish that fails is tried again, and everything is
 * put anew every half minute where it differs, so that neither a lost publish nor a server that lost its data leaves
 * agents behind.
 */
export class HeadPublisher implements Disposable {
  readonly #options: HeadPublisherOptions;
  readonly #dirty = new Map<string, PublishedBody>();
  readonly #published = new Map<string, { revision: bigint; envelope: Uint8Array }>();
  readonly #timers: Disposable[];
  #isFailing = false;
  #isPutting = false;

  constructor(options: HeadPublisherOptions) {
    this.#options = options;
    this.#timers = [
      options.clock.every(RETRY_MS, () => this.#retry()),
      options.clock.every(RECONCILE_MS, () => this.reconcile()),
    ];
  }

  /** Publishes now, or soon where the bus is away. Never waits and never fails. */
  publish(body: PublishedBody): void {
    const waiting = this.#dirty.get(body.key);
    if (waiting && waiting.revision > body.revision) return;
    if (this.#dirty.size < DIRTY_MAX || waiting) this.#dirty.set(body.key, body);
    void this.#put(body);
  }

  /** Takes a head away. */
  async remove(key: string): Promise<void> {
    this.#dirty.delete(key);
    this.#published.delete(key);
    await this.#attempt(async () => (await this.#options.bucket()).remove(key));
  }

  /** Compares every body with what stands on the bus, and puts what is missing, old or not ours. */
  async reconcile(): Promise<void> {
    await this.#attempt(async () => {
      const bucket = await this.#options.bucket();
      for await (const body of this.#options.all()) {
        const published = this.#published.get(body.key);
        const found = published?.revision === body.revision ? await bucket.get(body.key) : undefined;
        if (!found || !published || !Buffer.from(published.envelope).equals(found)) await this.#put(body);
      }
    });
  }

  [Symbol.dispose](): void {
    for (const timer of this.#timers) timer[Symbol.dispose]();
  }

  async #retry(): Promise<void> {
    if (this.#isPutting) return;
    for (const body of [...this.#dirty.values()]) await this.#put(body);
  }

  async #put(body: PublishedBody): Promise<void> {
    const { signer, clock } = this.#options;
    const digest = createHash("sha256").update(body.body).digest("hex");
    const head = create(BodyHeadSchema, { revision: body.revision, digest, size: BigInt(body.body.length) });
    const envelope = seal(signer, BodyHeadSchema, head, {
      subject: body.key,
      revision: body.revision,
      nowMs: clock.now(),
    });
    this.#isPutting = true;
    await this.#attempt(async () => {
      await (await this.#options.bucket()).put(body.key, envelope);
      this.#published.set(body.key, { revision: body.revision, envelope });
      if (this.#dirty.get(body.key)?.revision === body.revision) this.#dirty.delete(body.key);
    });
    this.#isPutting = false;
  }

  /** Logs the first of a row of failures, and the end of it. */
  async #attempt(call: () => Promise<void>): Promise<void> {
    try {
      await call();
      if (this.#isFailing) this.#options.logger.info("publishing works again");
      this.#isFailing = false;
    } catch (error) {
      if (!this.#isFailing) this.#options.logger.warn({ err: error }, "cannot publish; trying again");
      this.#isFailing = true;
    }
  }
}
