import type { WatchedContainer } from "../containers/watched-container.ts";

/** Names remembered for one container; when full, the oldest go. */
const KEPT_MAX = 4_096;

/** When changes of files were last told of, by their paths. */
export class ToldNames {
  readonly #told = new WeakMap<WatchedContainer, Map<string, number>>();

  note(container: WatchedContainer, path: string, atMs: number): void {
    const known = this.#told.get(container) ?? new Map<string, number>();
    this.#told.set(container, known);
    known.delete(path);
    known.set(path, atMs);
    const [oldest] = known.keys();
    if (known.size > KEPT_MAX && oldest !== undefined) known.delete(oldest);
  }

  /** True where it was told since. */
  has(container: WatchedContainer, path: string, sinceMs: number): boolean {
    return (this.#told.get(container)?.get(path) ?? -Infinity) >= sinceMs;
  }
}
