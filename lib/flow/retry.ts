import { setTimeout as sleep } from "node:timers/promises";

/** Waiting times of repeated attempts: doubling with jitter, up to a bound. */
export interface Backoff {
  readonly firstMs: number;
  readonly maxMs: number;
}

export const DEFAULT_BACKOFF: Backoff = { firstMs: 250, maxMs: 10_000 };

/** Resolves when the signal aborts, at once if it has already. */
export function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}

/** The wait before attempt number `attempt` (from 1). */
export function backoffMs(attempt: number, { firstMs, maxMs }: Backoff, random: () => number = Math.random): number {
  const full = Math.min(maxMs, firstMs * 2 ** Math.min(attempt - 1, 30));
  return full * (0.5 + random() / 2);
}

/**
 * Runs `attempt` again and again until it returns or the signal aborts. Each failure is told to `onFailure`. A run that
 * lasted longer than the longest wait counts as a success that ended, so the waits begin anew.
 */
export async function repeatUntilAborted(
  attempt: (signal: AbortSignal) => Promise<void>,
  options: { signal: AbortSignal; onFailure: (error: unknown) => void; backoff?: Backoff },
): Promise<void> {
  const backoff = options.backoff ?? DEFAULT_BACKOFF;
  let failures = 0;
  while (!options.signal.aborted) {
    const begin = performance.now();
    try {
      await attempt(options.signal);
    } catch (error) {
      if (options.signal.aborted) return;
      options.onFailure(error);
    }
    failures = performance.now() - begin > backoff.maxMs ? 1 : failures + 1;
    await sleep(backoffMs(failures, backoff), undefined, { signal: options.signal }).catch(() => {});
  }
}
