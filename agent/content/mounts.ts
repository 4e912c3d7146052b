import { type BigIntStats, existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { pidsBelow } from "../containers/group-pids.ts";
import type { ControlGroup } from "../containers/watched-container.ts";
import type { WatchedMount } from "../wire/encode.ts";

/** File systems that hold no files of anybody, or none that could be run. */
const NO_FILES = new Set([
  "proc",
  "sysfs",
  "cgroup",
  "cgroup2",
  "devpts",
  "mqueue",
  "securityfs",
  "tracefs",
  "debugfs",
  "bpf",
  "nsfs",
]);
/** Mounts of one container that are watched. */
const MOUNTS_MAX = 256;
/** Processes that are asked for the container's mounts: those that are only entering it have the host's. */
const BOUNDS = { processes: 16, groups: 64 };

/** Undefined for what is gone, or cannot be asked. */
function statOf(path: string): BigIntStats | undefined {
  try {
    return statSync(path, { bigint: true });
  } catch {
    return undefined;
  }
}

/** A path in mountinfo has its blanks and backslashes as octal numbers. */
function unescapeMount(text: string): Buffer {
  return Buffer.from(
    text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8))),
    "latin1",
  );
}

/** Mounts of a process that can be written to, from the text of its mountinfo. */
export function writableMounts(mountinfo: string, pid: number): WatchedMount[] {
  return mountinfo
    .split("\n")
    .flatMap((line): WatchedMount[] => {
      const [own = "", source = ""] = line.split(" - ");
      const [id = "", , , , mountPoint = "", options = ""] = own.split(" ");
      const [type = ""] = source.split(" ");
      if (type === "" || NO_FILES.has(type) || options.split(",").includes("ro")) return [];
      const path = Buffer.concat([Buffer.from(`/proc/${pid}/root`), unescapeMount(mountPoint)]);
      return [{ mountId: BigInt(id), path }];
    })
    .slice(0, MOUNTS_MAX);
}

/** Processes of a container that have its root file system as root; a runtime on its way in still has the machine's. */
async function* insiders(cgroupMount: string, cgroup: ControlGroup, rootfs: string): AsyncGenerator<number> {
  const root = statOf(rootfs);
  const { pids } = await pidsBelow(join(cgroupMount, cgroup.path), BOUNDS);
  for (const pid of pids) {
    const own = statOf(`/proc/${pid}/root`);
    if (root && own?.dev === root.dev && own.ino === root.ino) yield pid;
  }
}

/** Mounts of a container that runs; none while nobody in it has its root file system as root yet. */
export async function mountsOf(cgroupMount: string, cgroup: ControlGroup, rootfs: string): Promise<WatchedMount[]> {
  for await (const pid of insiders(cgroupMount, cgroup, rootfs)) {
    try {
      return writableMounts(readFileSync(`/proc/${pid}/mountinfo`, "latin1"), pid);
    } catch {
      // It has gone meanwhile: another one may do.
    }
  }
  return [];
}

/** True where a program of a container's own runs in it. */
export async function hasInsider(cgroupMount: string, cgroup: ControlGroup, rootfs: string): Promise<boolean> {
  return (await firstOf(insiders(cgroupMount, cgroup, rootfs))) !== undefined;
}

async function firstOf<T>(all: AsyncIterable<T>): Promise<T | undefined> {
  for await (const one of all) return one;
  return undefined;
}

/** How long a process that was found stands for its container, or its absence, in ms: as long as one burst. */
const SEARCH_MS = 100;
/** Processes that are looked through one after the other, before the image's files must do. */
const LOOKS_MAX = 3;

/** Where something happened: by whom, in which container. */
export interface Place {
  readonly cgroup: ControlGroup;
  readonly rootfs: string;
  readonly pid: number;
  /** True where its root is not the top of its mounts. */
  readonly isRooted: boolean;
}

/** Where the files of containers are seen with their mounts: through a process in there. */
export class SeenRoots {
  readonly #cgroupMount: string;
  readonly #found = new WeakMap<ControlGroup, { readonly pid: number | undefined; readonly untilMs: number }>();

  constructor(cgroupMount: string) {
    this.#cgroupMount = cgroupMount;
  }

  /**
   * Looks through a process; once more where the one that was looked through has ended meanwhile. Through another one than
   * the one that has a root of its own.
   */
  async look<T>({ cgroup, rootfs, pid, isRooted }: Place, look: (root: string) => Promise<T>): Promise<T> {
    for (const _ of Array(LOOKS_MAX)) {
      const root = await this.#rootOf(cgroup, rootfs, isRooted ? 0 : pid);
      const found = await look(root);
      if (existsSync(root)) return found;
    }
    return look(rootfs);
  }

  /** The root that a process sees; where it has gone, that of another one; with nobody in there, the image's files. */
  async #rootOf(cgroup: ControlGroup, rootfs: string, pid: number): Promise<string> {
    if (existsSync(`/proc/${pid}/root`)) return `/proc/${pid}/root`;
    const other = await this.#insider(cgroup, rootfs);
    return other === undefined ? rootfs : `/proc/${other}/root`;
  }

  async #insider(cgroup: ControlGroup, rootfs: string): Promise<number | undefined> {
    const known = this.#found.get(cgroup);
    const isFresh = known !== undefined && known.untilMs > performance.now();
    if (isFresh && (known.pid === undefined || existsSync(`/proc/${known.pid}/root`))) return known.pid;
    const pid = await firstOf(insiders(this.#cgroupMount, cgroup, rootfs));
    this.#found.set(cgroup, { pid, untilMs: performance.now() + SEARCH_MS });
    return pid;
  }
}
