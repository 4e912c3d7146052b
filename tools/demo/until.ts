/** Something that was waited for did not come. */
export class DeadlineError extends Error {
  override readonly name = "DeadlineError";
}

const POLL_MS = 50;

/** Asks again and again, this often, until there is an answer or the deadline is over. */
export async function until<T>(
  what: string,
  timeoutMs: number,
  ask: () => T | undefined | Promise<T | undefined>,
  everyMs = POLL_MS,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    if (performance.now() > deadline) throw new DeadlineError(`waited ${timeoutMs / 1000} s for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, everyMs));
  }
}
