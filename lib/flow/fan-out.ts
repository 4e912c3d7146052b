import { BoundedQueue } from "./bounded-queue.ts";

/** What a watcher gets: items, and how many it was too slow for since it began. */
export interface Watched<T> {
  readonly items: readonly T[];
  readonly skippedCount: number;
}

/** Hands each item to all who watch, each with a queue of its own, so that a slow one holds up nobody. */
export class FanOut<T> {
  readonly #queues = new Set<BoundedQueue<T>>();
  readonly #capacity: number;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  send(item: T): void {
    for (const queue of this.#queues) queue.push(item);
  }

  /** Items from now on, until the signal aborts. Watching begins with the call, not with the first read. */
  watch(signal: AbortSignal): AsyncIterable<Watched<T>> {
    const queue = new BoundedQueue<T>(this.#capacity);
    this.#queues.add(queue);
    signal.addEventListener("abort", () => this.#queues.delete(queue), { once: true });
    return this.#read(queue, signal);
  }

  async *#read(queue: BoundedQueue<T>, signal: AbortSignal): AsyncIterable<Watched<T>> {
    try {
      for (;;) {
        const items = await queue.takeAll(signal);
        if (items === undefined || signal.aborted) return;
        yield { items, skippedCount: queue.lostCount };
      }
    } finally {
      this.#queues.delete(queue);
    }
  }
}
