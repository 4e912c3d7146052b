import type { WatchedContainer } from "../containers/watched-container.ts";

/** Names remembered on one node; when full, the oldest go. */
const KEPT_MAX = 16_384;

/**
 * When changes of files that rules name were last told of, by their paths. Containers that share a root file system share
 * these: what one of them did the others see too.
 */
export class ToldNames {
  readonly #told = new Map<string, number>();

  note(container: WatchedContainer, path: string, atMs: number): void {
    const key = keyOf(container, path);
    this.#told.delete(key);
    this.#told.set(key, atMs);
    const [oldest] = this.#told.keys();
    if (this.#told.size > KEPT_MAX && oldest !== undefined) this.#told.delete(oldest);
  }

  /** True where it was told since. */
  has(container: WatchedContainer, path: string, sinceMs: number): boolean {
    return (this.#told.get(keyOf(container, path)) ?? -Infinity) >= sinceMs;
  }
}

function keyOf({ identified }: WatchedContainer, path: string): string {
  return `${identified.bundle.rootfs}\0${path}`;
}
