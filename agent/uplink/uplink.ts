import { Code, ConnectError } from "@connectrpc/connect";
import type { ServiceHello } from "#gen/gabion/fleet/v1/fleet_pb.ts";
import { repeatUntilAborted } from "#lib/flow/retry.ts";
import type { Logger } from "#lib/telemetry/log.ts";

/** A message must stay below the service's limit of 4 MiB, whatever estimating its size leaves out. */
const BATCH_MAX_BYTES = 2 * 1024 * 1024;
/** A service that acknowledges nothing for this long is taken for gone. */
const STALL_MS = 30_000;

/** What a service answers on a stream. */
export interface UplinkAnswer {
  readonly hello?: ServiceHello | undefined;
  readonly acknowledgedSequence: bigint;
  readonly windowItems: number;
}

export interface UplinkOptions<Item, Request> {
  readonly name: string;
  /** Opens the stream. */
  readonly open: (requests: AsyncIterable<Request>, signal: AbortSignal) => AsyncIterable<UplinkAnswer>;
  readonly makeHello: () => Request;
  /** Makes one batch. Called once for each sequence: what is sent again is sent unchanged. */
  readonly makeBatch: (items: readonly Item[], sequence: bigint, lostCount: bigint) => Request;
  readonly maxBatchItems: number;
  /** Size of an item in bytes, about. */
  readonly sizeOf: (item: Item) => number;
  /** Drops the connection, for a service that does not answer any more. */
  readonly reset: () => void;
  /** How long an item waits for others. */
  readonly maxDelayMs: number;
  /** Items kept while the service is away; beyond it the oldest that were not sent go, and are counted. */
  readonly capacity: number;
  readonly logger: Logger;
}

interface Batch<Request> {
  readonly sequence: bigint;
  readonly request: Request;
  readonly itemCount: number;
}

/**
 * One way to one service: numbered batches, kept until the service says that they are durable, sent again after a
 * reconnect. Never more items in flight than the service has granted.
 */
export class Uplink<Item, Request> implements AsyncDisposable {
  readonly #options: UplinkOptions<Item, Request>;
  readonly #abort = new AbortController();
  #running: Promise<void> | undefined;
  #waiting: Item[] = [];
  #unacknowledged: Batch<Request>[] = [];
  #sequence = 0n;
  #lost = 0n;
  #window = 1_000;
  #wake = Promise.withResolvers<void>();
  #timer: NodeJS.Timeout | undefined;
  #isFlushing = false;
  #isConnected = false;
  #isToldOfFailure = false;
  #progressAt = performance.now();

  constructor(options: UplinkOptions<Item, Request>) {
    this.#options = options;
  }

  /** Begins to send; what was pushed before waits. */
  start(): void {
    this.#running ??= repeatUntilAborted((signal) => this.#connect(signal), {
      signal: this.#abort.signal,
      onFailure: (error) => this.#noteFailure(error),
    });
  }

  get isConnected(): boolean {
    return this.#isConnected;
  }

  get lostCount(): bigint {
    return this.#lost;
  }

  push(item: Item): void {
    if (this.#waiting.length >= this.#options.capacity) {
      this.#waiting.shift();
      this.#lost += 1n;
    }
    this.#waiting.push(item);
    if (this.#waiting.length >= this.#options.maxBatchItems) this.#flush();
    else this.#timer ??= setTimeout(() => this.#flush(), this.#options.maxDelayMs);
  }

  /** Waits until everything pushed so far is durable, or the deadline is over; answers which. */
  async drain(timeoutMs: number): Promise<boolean> {
    this.#flush();
    const deadline = performance.now() + timeoutMs;
    while (this.#waiting.length > 0 || this.#unacknowledged.length > 0) {
      if (performance.now() > deadline) return false;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#timer);
    this.#abort.abort(new Error("the agent is ending"));
    this.#wake.resolve();
    await this.#running;
  }

  #flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#isFlushing = true;
    this.#wakeUp();
  }

  #wakeUp(): void {
    this.#wake.resolve();
    this.#wake = Promise.withResolvers();
  }

  #inFlight(): number {
    return this.#unacknowledged.reduce((sum, { itemCount }) => sum + itemCount, 0);
  }

  /** Items that fit into one message. One that alone does not is sent alone, refused, and then counted as lost. */
  #batchLength(): number {
    let bytes = 0;
    for (let at = 0; at < this.#waiting.length && at < this.#options.maxBatchItems; at += 1) {
      bytes += this.#options.sizeOf(this.#waiting[at] as Item);
      if (bytes > BATCH_MAX_BYTES) return Math.max(1, at);
    }
    return this.#options.maxBatchItems;
  }

  #cut(): Batch<Request> | undefined {
    if (!this.#isFlushing || this.#waiting.length === 0 || this.#inFlight() >= this.#window) return undefined;
    const items = this.#waiting.splice(0, this.#batchLength());
    this.#isFlushing = this.#waiting.length > 0;
    this.#sequence += 1n;
    const request = this.#options.makeBatch(items, this.#sequence, this.#lost);
    const batch = { sequence: this.#sequence, request, itemCount: items.length };
    this.#unacknowledged.push(batch);
    return batch;
  }

  async *#requests(greeted: Promise<void>, signal: AbortSignal): AsyncIterable<Request> {
    yield this.#options.makeHello();
    await greeted;
    for (const { request } of [...this.#unacknowledged]) yield request;
    while (!signal.aborted) {
      const wake = this.#wake.promise;
      const batch = this.#cut();
      if (batch) yield batch.request;
      else await wake;
    }
  }

  async #connect(outer: AbortSignal): Promise<void> {
    const own = new AbortController();
    const signal = AbortSignal.any([outer, own.signal]);
    const greeted = Promise.withResolvers<void>();
    const release = () => {
      greeted.resolve();
      this.#wakeUp();
    };
    signal.addEventListener("abort", release, { once: true });
    const watch = setInterval(() => this.#checkProgress(own), STALL_MS / 2);
    try {
      for await (const answer of this.#options.open(this.#requests(greeted.promise, signal), signal)) {
        if (answer.hello) {
          this.#acknowledge(answer.hello.acknowledgedSequence);
          this.#noteSuccess();
          greeted.resolve();
        }
        if (answer.windowItems > 0) this.#window = answer.windowItems;
        this.#acknowledge(answer.acknowledgedSequence);
      }
    } catch (error) {
      this.#dropRefused(error);
      throw error;
    } finally {
      clearInterval(watch);
      this.#isConnected = false;
      own.abort();
    }
  }

  /** A batch that is wrong in itself would be refused for ever: it goes, and is counted, so that the others get through. */
  #dropRefused(error: unknown): void {
    const { code } = ConnectError.from(error);
    const first = this.#unacknowledged[0];
    if (!first || (code !== Code.InvalidArgument && code !== Code.ResourceExhausted)) return;
    this.#unacknowledged.shift();
    this.#lost += BigInt(first.itemCount);
    this.#options.logger.error({ err: error, items: first.itemCount }, "a batch was refused and is lost");
  }

  /** A peer that has gone without a word is noticed by the acknowledgements that do not come. */
  #checkProgress(connection: AbortController): void {
    const isWaiting = this.#unacknowledged.length > 0;
    const since = performance.now() - this.#progressAt;
    if (!isWaiting || since < STALL_MS) return;
    this.#progressAt = performance.now();
    this.#options.reset();
    connection.abort(new Error("no acknowledgement for 30 s"));
  }

  #acknowledge(sequence: bigint): void {
    this.#progressAt = performance.now();
    this.#unacknowledged = this.#unacknowledged.filter((batch) => batch.sequence > sequence);
    this.#wakeUp();
  }

  #noteSuccess(): void {
    this.#isConnected = true;
    this.#isToldOfFailure = false;
    this.#options.logger.info({ service: this.#options.name }, "connected");
  }

  #noteFailure(error: unknown): void {
    if (this.#isToldOfFailure) return;
    this.#isToldOfFailure = true;
    this.#options.logger.warn({ err: error, service: this.#options.name }, "no connection; trying again");
  }
}
