/** Time as the rest of the code sees it, so that tests can drive it. */
export interface Clock {
  /** Wall-clock milliseconds since 1970. */
  readonly now: () => number;
  /** Calls back every `intervalMs` until disposed. A call that takes longer delays the next one. */
  readonly every: (intervalMs: number, call: () => Promise<void> | void) => Disposable;
}

/** The machine's clock. */
export const systemClock: Clock = {
  now: () => Date.now(),
  every(intervalMs, call) {
    let isRunning = false;
    const timer = setInterval(async () => {
      if (isRunning) return;
      isRunning = true;
      try {
        await call();
      } catch (error) {
        // Callers log their own failures; one that slips through must not end the process.
        process.emitWarning(error instanceof Error ? error : String(error));
      } finally {
        isRunning = false;
      }
    }, intervalMs);
    return { [Symbol.dispose]: () => clearInterval(timer) };
  },
};

/** A clock that stands still until it is moved. */
export class ManualClock implements Clock {
  #now: number;
  readonly #timers = new Set<{
    next: number;
    readonly intervalMs: number;
    readonly call: () => Promise<void> | void;
  }>();

  constructor(now = 1_700_000_000_000) {
    this.#now = now;
  }

  readonly now = (): number => this.#now;

  readonly every = (intervalMs: number, call: () => Promise<void> | void): Disposable => {
    const timer = { next: this.#now + intervalMs, intervalMs, call };
    this.#timers.add(timer);
    return { [Symbol.dispose]: () => void this.#timers.delete(timer) };
  };

  /** Moves time on and runs what falls due, in order. */
  async advance(ms: number): Promise<void> {
    const end = this.#now + ms;
    for (;;) {
      const due = [...this.#timers].filter((t) => t.next <= end).sort((a, b) => a.next - b.next)[0];
      if (!due) break;
      this.#now = due.next;
      due.next += due.intervalMs;
      await due.call();
    }
    this.#now = end;
  }
}
