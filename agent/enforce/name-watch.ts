import { type BigIntStats, type FSWatcher, statSync, watch } from "node:fs";
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
/** How often folders that have been made, or put in the place of others, are looked for. */
const LOOK_MS = 30_000;

/** What of a container's files is watched. */
export interface NamedFiles {
  /** Patterns of paths. */
  readonly patterns: readonly string[];
  /** True for a path that they name, or that lies around such a one. */
  readonly isNamed: (path: string) => boolean;
}

interface Watched {
  /** Patterns that it is for, as one text. */
  readonly key: string;
  readonly files: NamedFiles;
  /** By the folder's path on the host, as latin1. */
  readonly folders: Map<string, { readonly watcher: FSWatcher; readonly status: BigIntStats }>;
  /** False until a program of the container's own has run: before, its runtime makes files there. */
  hasRun: boolean;
  lookAtMs: number;
  /** When each name was seen last. */
  readonly waiting: Map<string, number>;
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

  /** Watches for these files from now on, and for no others. */
  update(container: WatchedContainer, files: NamedFiles): void {
    const key = JSON.stringify(files.patterns);
    if (this.#watched.get(container)?.key === key) return;
    this.drop(container);
    if (files.patterns.length === 0) return;
    this.#watched.set(container, { key, files, folders: new Map(), hasRun: false, lookAtMs: 0, waiting: new Map() });
  }

  drop(container: WatchedContainer): void {
    for (const { watcher } of this.#watched.get(container)?.folders.values() ?? []) watcher.close();
    this.#watched.delete(container);
  }

  [Symbol.dispose](): void {
    this.#timer[Symbol.dispose]();
    for (const container of [...this.#watched.keys()]) this.drop(container);
  }

  async #tick(): Promise<void> {
    const now = this.#clock.now();
    for (const [container, watched] of this.#watched) {
      for (const [path, atMs] of watched.waiting) {
        if (now - atMs < TICK_MS) continue;
        watched.waiting.delete(path);
        this.#onName(container, path, atMs);
      }
      if (now >= watched.lookAtMs) await this.#look(container, watched, now);
    }
  }

  /** Opens the folders that are there and not watched yet, and lets go of those that are others by now. */
  async #look(container: WatchedContainer, watched: Watched, now: number): Promise<void> {
    const { rootfs } = container.identified.bundle;
    watched.hasRun ||= await hasInsider(this.#cgroupMount, container.cgroup, rootfs);
    if (!watched.hasRun) return;
    const found = await foldersOf(rootfs, watched.files.patterns, FOLDERS_MAX);
    // It may have been dropped meanwhile.
    if (this.#watched.get(container) !== watched) return;
    watched.lookAtMs = now + LOOK_MS;
    const hosts = new Set(found.map(({ host }) => host.toString("latin1")));
    for (const [host, { watcher, status }] of watched.folders) {
      if (hosts.has(host) && isSame(Buffer.from(host, "latin1"), status)) continue;
      watcher.close();
      watched.folders.delete(host);
    }
    for (const { host, path } of found) {
      if (!watched.folders.has(host.toString("latin1"))) this.#open(watched, host, escapeBytes(path));
    }
  }

  /** What cannot be watched now is tried again with the next look. */
  #open(watched: Watched, host: Buffer, path: string): void {
    const own = host.subarray(host.lastIndexOf(0x2f) + 1);
    try {
      const status = statSync(host, { bigint: true });
      const watcher = watch(host, { persistent: false, encoding: "buffer" }, (kind, name) => {
        // What is written into files is told by their opens, which lead nowhere else.
        if (kind !== "rename" || !name) return;
        // By its own name it may be the folder itself that was removed, moved or unmounted: its path is another's then.
        if (own.equals(name) && !isSame(host, status)) watcher.close();
        else this.#take(watched, `${path}/${escapeBytes(name)}`);
      });
      watcher.on("error", () => watcher.close());
      watched.folders.set(host.toString("latin1"), { watcher, status });
    } catch {
      // It has gone, or there is no room for one more.
    }
  }

  #take({ files, waiting }: Watched, path: string): void {
    const hasRoom = waiting.has(path) || waiting.size < WAITING_MAX;
    if (hasRoom && files.isNamed(path)) waiting.set(path, this.#clock.now());
  }
}

/** False too where a container has made the way there one that cannot be gone, as by links in a circle. */
function isSame(host: Buffer, { ino, dev }: BigIntStats): boolean {
  try {
    const now = statSync(host, { bigint: true });
    return now.ino === ino && now.dev === dev;
  } catch {
    return false;
  }
}
