/**
 * A queue of limited size that one reader drains. When it is full the oldest item goes and is counted: the newest is
 * what an operator wants to see.
 */
export class BoundedQueue<T> {
  readonly #capacity: number;
  #items: T[] = [];
  #lost = 0;
  #isClosed = false;
  #wake: PromiseWithResolvers<void> | undefined;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /** Items that found no room since the queue was made. */
  get lostCount(): number {
    return this.#lost;
  }

  get length(): number {
    return this.#items.length;
  }

  push(item: T): void {
    if (this.#isClosed) return;
    if (this.#items.length >= this.#capacity) {
      this.#items.shift();
      this.#lost += 1;
    }
    this.#items.push(item);
    this.#wake?.resolve();
  }

  /** No more items come; the reader ends after those that are there. */
  close(): void {
    this.#isClosed = true;
    this.#wake?.resolve();
  }

  /** All that is there, waiting for at least one item; undefined once closed and empty. */
  async takeAll(signal?: AbortSignal): Promise<T[] | undefined> {
    while (this.#items.length === 0) {
      if (this.#isClosed || signal?.aborted) return undefined;
      this.#wake = Promise.withResolvers();
      const wake = this.#wake;
      const onAbort = () => wake.resolve();
      signal?.addEventListener("abort", onAbort, { once: true });
      await wake.promise;
      signal?.removeEventListener("abort", onAbort);
    }
    const items = this.#items;
    this.#items = [];
    return items;
  }
}
