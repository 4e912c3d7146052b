import { type FSWatcher, watch } from "node:fs";
import { escapeBytes } from "#core/text/escape.ts";
import type { Clock } from "#lib/flow/clock.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import { hasInsider } from "../content/mounts.ts";
import { foldersOf } from "./protect.ts";

/** Folders of one container whose names are watched; more are left out. */
const FOLDERS_MAX = 256;
/** Names of one container that wait to be compared with what was told; more are left out. */
const WAITING_MAX = 256;
const TICK_MS = 1_000;

interface Watched {
  /** Patterns that it is for, as one text. */
  readonly key: string;
  readonly patterns: readonly string[];
  /** Undefined until a program of the container's own runs: before, its runtime makes files there. */
  watchers: readonly FSWatcher[] | undefined;
  waiting: NewName[];
}

interface NewName {
  readonly path: string;
  readonly atMs: number;
}

/**
 * Says where names appear, go or are replaced in the folders that a container's rule names something in. The kernel tells
 * these by the folder itself (inotify), where a path that was typed may have led through a link that leads elsewhere by the
 * time it is resolved. Who did it is not told, so this only fills in for what the sensor's events did not name.
 */
export class NameWatch implements Disposable {
  readonly #clock: Clock;
  readonly #cgroupMount: string;
  readonly #onName: (container: WatchedContainer, path: string, atMs: number) => void;
  readonly #watched = new Map<WatchedContainer, Watched>();
  readonly #timer: Disposable;

  /** `onName` is called for each name, a second or two later: by then what the sensor had to say of it has been read. */
  constructor(options: {
    clock: Clock;
    cgroupMount: string;
    onName: (container: WatchedContainer, path: string, atMs: number) => void;
  }) {
    this.#clock = options.clock;
    this.#cgroupMount = options.cgroupMount;
    this.#onName = options.onName;
    this.#timer = options.clock.every(TICK_MS, () => this.#tick());
  }

  /** Watches for these patterns of paths from now on, and for no others. */
  update(container: WatchedContainer, patterns: readonly string[]): void {
    const key = JSON.stringify(patterns);
    if (this.#watched.get(container)?.key === key) return;
    this.drop(container);
    if (patterns.length > 0) this.#watched.set(container, { key, patterns, watchers: undefined, waiting: [] });
  }

  drop(container: WatchedContainer): void {
    for (const watcher of this.#watched.get(container)?.watchers ?? []) watcher.close();
    this.#watched.delete(container);
  }

  [Symbol.dispose](): void {
    this.#timer[Symbol.dispose]();
    for (const container of [...this.#watched.keys()]) this.drop(container);
  }

  async #tick(): Promise<void> {
    const now = this.#clock.now();
    for (const [container, watched] of this.#watched) {
      const { waiting } = watched;
      watched.waiting = waiting.filter(({ atMs }) => now - atMs < TICK_MS);
      for (const { path, atMs } of waiting) if (now - atMs >= TICK_MS) this.#onName(container, path, atMs);
      if (!watched.watchers) await this.#begin(container, watched);
    }
  }

  async #begin(container: WatchedContainer, watched: Watched): Promise<void> {
    const { rootfs } = container.identified.bundle;
    if (!(await hasInsider(this.#cgroupMount, container.cgroup, rootfs))) return;
    const folders = await foldersOf(rootfs, watched.patterns, FOLDERS_MAX);
    // It may have been dropped meanwhile.
    if (this.#watched.get(container) !== watched) return;
    watched.watchers = folders.flatMap(({ host, path }) => this.#open(watched, host, escapeBytes(path)));
  }

  #open(watched: Watched, host: Buffer, path: string): FSWatcher[] {
    const own = host.subarray(host.lastIndexOf(0x2f) + 1);
    try {
      const watcher = watch(host, { persistent: false, encoding: "buffer" }, (kind, name) => {
        // What is written into files is told by their opens, which lead nowhere else.
        if (kind !== "rename" || !name) return;
        // By its own name: it has been removed, moved or unmounted, and its path is another folder's from now on.
        if (own.equals(name)) watcher.close();
        else if (watched.waiting.length < WAITING_MAX)
          watched.waiting.push({ path: `${path}/${escapeBytes(name)}`, atMs: this.#clock.now() });
      });
      watcher.on("error", () => watcher.close());
      return [watcher];
    } catch {
      return []; // the folder has gone
    }
  }
}
