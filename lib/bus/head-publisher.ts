import { createHash } from "node:crypto";
import { create, equals } from "@bufbuild/protobuf";
import { type BodyHead, BodyHeadSchema } from "#gen/gabion/bus/v1/envelope_pb.ts";
import type { Clock } from "../flow/clock.ts";
import type { Signer } from "../pki/signing.ts";
import type { Logger } from "../telemetry/log.ts";
import { EnvelopeError, seal, unseal } from "./envelope.ts";
import type { PolicyBucket } from "./policy-bucket.ts";

/** A body that agents fetch, as it stands in the store. */
export interface PublishedBody {
  readonly key: string;
  readonly revision: bigint;
  readonly body: Uint8Array;
}

/** What is published of a body. */
export interface PublishedHead {
  readonly key: string;
  readonly revision: bigint;
  /** SHA-256 of the body, in hex. */
  readonly digest: string;
  /** Of the body, in bytes. */
  readonly size: number;
}

/** The head of a body. */
export function headOf({ key, revision, body }: PublishedBody): PublishedHead {
  return { key, revision, digest: createHash("sha256").update(body).digest("hex"), size: body.length };
}

export interface HeadPublisherOptions {
  readonly bucket: () => Promise<PolicyBucket>;
  readonly signer: Signer;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Everything that should be published, from the store. */
  readonly all: () => AsyncIterable<PublishedHead>;
}

const RETRY_MS = 1_000;
const RECONCILE_MS = 30_000;
/** Heads that one reconcile compares; the next goes on where it stopped. */
const RECONCILED_MAX = 1_000;
/** Keys waiting for a retry; beyond it the next reconcile finds them. */
const DIRTY_MAX = 10_000;

function messageOf({ revision, digest, size }: PublishedHead): BodyHead {
  return create(BodyHeadSchema, { revision, digest, size: BigInt(size) });
}

/**
 * Keeps the signed heads on the bus equal to what the store says. A publish that fails is tried again. Every half minute
 * some of them are compared, in turn, so that a fleet of many models costs no more than one of few; all of them when the
 * service starts and when the bus has lost its data, which its bucket's birth tells. Until a head is there agents ask the
 * services, which they do every half minute anyway.
 */
export class HeadPublisher implements Disposable {
  readonly #options: HeadPublisherOptions;
  readonly #dirty = new Map<string, PublishedHead>();
  readonly #timers: Disposable[];
  #isFailing = false;
  #isPutting = false;
  #isReconciling = false;
  #bucket: Promise<PolicyBucket> | undefined;
  /** When the bucket was made, as far as everything in it was compared since. */
  #compared = "";
  #left: AsyncIterator<PublishedHead> | undefined;

  constructor(options: HeadPublisherOptions) {
    this.#options = options;
    this.#timers = [
      options.clock.every(RETRY_MS, () => this.#retry()),
      options.clock.every(RECONCILE_MS, () => this.reconcile()),
    ];
  }

  /** Publishes now, or soon where the bus is away. Never waits and never fails. */
  publish(head: PublishedHead): void {
    const waiting = this.#dirty.get(head.key);
    if (waiting && waiting.revision > head.revision) return;
    if (this.#dirty.size < DIRTY_MAX || waiting) this.#dirty.set(head.key, head);
    void this.#put(head);
  }

  /** Takes a head away. */
  async remove(key: string): Promise<void> {
    this.#dirty.delete(key);
    await this.#attempt(async (bucket) => bucket.remove(key));
  }

  /** Compares heads with what stands on the bus, and puts what is missing, old or not ours. */
  async reconcile(): Promise<void> {
    if (this.#isReconciling) return;
    this.#isReconciling = true;
    // The bucket may have been lost, and made anew without us.
    this.#bucket = undefined;
    await this.#attempt(async (bucket) => {
      const birth = await bucket.birth();
      const isWhole = birth !== this.#compared;
      if (isWhole) this.#left = undefined;
      await this.#compare(bucket, isWhole ? Number.POSITIVE_INFINITY : RECONCILED_MAX);
      this.#compared = birth;
    });
    this.#isReconciling = false;
  }

  [Symbol.dispose](): void {
    for (const timer of this.#timers) timer[Symbol.dispose]();
  }

  async #compare(bucket: PolicyBucket, atMost: number): Promise<void> {
    this.#left ??= this.#options.all()[Symbol.asyncIterator]();
    for (let count = 0; count < atMost; count += 1) {
      const { value, done } = await this.#left.next();
      if (done) {
        this.#left = undefined;
        return;
      }
      const found = await bucket.get(value.key);
      if (!found || !this.#isOurs(value, found)) await this.#put(value);
    }
  }

  #isOurs(head: PublishedHead, found: Uint8Array): boolean {
    const { signer, clock } = this.#options;
    try {
      const { message } = unseal(found, BodyHeadSchema, {
        check: (_, keyId, content, signature) =>
          keyId === signer.keyId && Buffer.from(signer.sign(content)).equals(signature),
        issuer: signer.issuer,
        subject: head.key,
        appliedRevision: head.revision,
        nowMs: clock.now(),
      });
      // A newer one is another replica's, and right.
      return message.revision > head.revision || equals(BodyHeadSchema, message, messageOf(head));
    } catch (error) {
      if (error instanceof EnvelopeError) return false;
      throw error;
    }
  }

  async #retry(): Promise<void> {
    if (this.#isPutting) return;
    for (const head of [...this.#dirty.values()]) await this.#put(head);
  }

  async #put(head: PublishedHead): Promise<void> {
    const { signer, clock } = this.#options;
    const { key, revision } = head;
    const envelope = seal(signer, BodyHeadSchema, messageOf(head), { subject: key, revision, nowMs: clock.now() });
    this.#isPutting = true;
    await this.#attempt(async (bucket) => {
      await bucket.put(key, envelope);
      if (this.#dirty.get(key)?.revision === revision) this.#dirty.delete(key);
    });
    this.#isPutting = false;
  }

  /** Logs the first of a row of failures, and the end of it. */
  async #attempt(call: (bucket: PolicyBucket) => Promise<void>): Promise<void> {
    try {
      this.#bucket ??= this.#options.bucket();
      await call(await this.#bucket);
      if (this.#isFailing) this.#options.logger.info("publishing works again");
      this.#isFailing = false;
    } catch (error) {
      this.#bucket = undefined;
      if (!this.#isFailing) this.#options.logger.warn({ err: error }, "cannot publish; trying again");
      this.#isFailing = true;
    }
  }
}
