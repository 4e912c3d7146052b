import { lstat } from "node:fs/promises";
import { isPattern } from "#core/matching/pattern.ts";
import { directoryOf } from "#core/policy/file-policy.ts";
import type { RefusedPath } from "#core/policy/kernel-slot.ts";
import type { IdentifiedContainer } from "../containers/identify.ts";
import { entriesOf } from "../content/entries.ts";
import { join, resolveInRoot } from "../content/resolve.ts";
import { fitProtect, type ProtectEntry } from "../wire/encode.ts";

/** Folders watched for one container; more would take longer to mark than a container may be held. */
const FOLDERS_MAX = 4_096;
const DEPTH_MAX = 16;

/** Folders below one on the host, itself first, the upper ones before the lower ones. Not all where there are too many. */
async function foldersBelow(top: Buffer, max: number): Promise<{ folders: Buffer[]; isComplete: boolean }> {
  const folders = [{ path: top, depth: 0 }];
  let isComplete = true;
  for (let at = 0; at < folders.length && isComplete; at += 1) {
    const { path, depth } = folders[at] as { path: Buffer; depth: number };
    const below = await foldersIn(path, max - folders.length);
    isComplete = below.isComplete && (depth < DEPTH_MAX || below.folders.length === 0);
    if (depth < DEPTH_MAX) folders.push(...below.folders.map((each) => ({ path: each, depth: depth + 1 })));
  }
  return { folders: folders.map(({ path }) => path), isComplete };
}

/** Folders in one; one that has gone, or cannot be read, has none. */
async function foldersIn(directory: Buffer, max: number): Promise<{ folders: Buffer[]; isComplete: boolean }> {
  const folders: Buffer[] = [];
  try {
    for await (const { name, isFolder } of entriesOf(directory)) {
      if (!isFolder) continue;
      if (folders.length >= max) return { folders, isComplete: false };
      folders.push(Buffer.concat([directory, Buffer.from("/"), name]));
    }
  } catch (err) {
    return { folders, isComplete: ["ENOENT", "ENOTDIR"].includes((err as NodeJS.ErrnoException).code ?? "") };
  }
  return { folders, isComplete: true };
}

/** A folder of a container: as it lies on the host, and its real path inside. */
interface Folder {
  readonly host: Buffer;
  readonly path: Buffer;
}

/** A folder of the container as it lies on the host; undefined where it does not exist there. */
async function findFolder(rootfs: string, typed: string): Promise<Folder | undefined> {
  const path = await resolveInRoot(rootfs, typed);
  if (path === undefined) return undefined;
  const host = path.length === 0 ? Buffer.from(rootfs) : join(rootfs, [path.subarray(1)]);
  return (await lstat(host).catch(() => undefined))?.isDirectory() ? { host, path } : undefined;
}

async function onHost(rootfs: string, path: string): Promise<Buffer | undefined> {
  return (await findFolder(rootfs, path))?.host;
}

/** Of a file its own folder, of a whole folder it and those below; none for other patterns. */
async function foldersFor(rootfs: string, pattern: string, max: number): Promise<Folder[]> {
  const isWhole = isWholeFolder(pattern);
  if (!isWhole && isPattern(pattern)) return [];
  const top = await findFolder(rootfs, isWhole ? pattern.slice(0, -2) || "/" : directoryOf(pattern));
  if (!top || !isWhole) return top ? [top] : [];
  const { folders } = await foldersBelow(top.host, max);
  return folders.map((host) => ({ host, path: Buffer.concat([top.path, host.subarray(top.host.length)]) }));
}

/** Folders that patterns name something in, those of single files first. At most so many. */
export async function foldersOf(rootfs: string, patterns: readonly string[], max: number): Promise<Folder[]> {
  const found = new Map<string, Folder>();
  for (const pattern of [...patterns].sort((a, b) => Number(isWholeFolder(a)) - Number(isWholeFolder(b)))) {
    if (found.size >= max) break;
    for (const folder of await foldersFor(rootfs, pattern, max)) found.set(folder.host.toString("latin1"), folder);
  }
  return [...found.values()].slice(0, max);
}

function isWholeFolder(pattern: string): boolean {
  return pattern.endsWith("/*") && !isPattern(pattern.slice(0, -1));
}

/**
 * True where the watch refuses to open a file for writing, and tells of it: it is named, and its folder as the container
 * sees it is the very one on the host that is marked.
 */
export async function isRefusedByWatch(
  { bundle }: IdentifiedContainer,
  refused: readonly RefusedPath[],
  root: string,
  path: string,
): Promise<boolean> {
  const isNamed = refused.some(
    (entry) => entry.isWrite && (entry.isDirectory ? path.startsWith(entry.path) : path === entry.path),
  );
  if (!isNamed) return false;
  const places = [bundle.rootfs, root].map(async (top) => {
    const folder = await onHost(top, directoryOf(path));
    return folder && (await lstat(folder).catch(() => undefined));
  });
  const [marked, seen] = await Promise.all(places);
  return marked !== undefined && seen?.ino === marked.ino && seen.dev === marked.dev;
}

function mark(host: Buffer, { isWrite, isExec, isListed }: RefusedPath): ProtectEntry {
  const base = { path: "", isDirectory: false, isMark: true, isWrite, isExec: isExec || isListed, isListed: false };
  return { ...base, host: host.toString("latin1") };
}

/** What the file system watch is told of one container. */
export interface ProtectOrder {
  readonly entries: readonly ProtectEntry[];
  /** False where there is more than can be watched: what is left out is told after the fact. */
  readonly isComplete: boolean;
}

/** Folders to mark on the host, within their bound. */
class Marks {
  readonly #entries = new Map<string, ProtectEntry>();
  isComplete = true;

  /** The folder that a file lies in, or another one, if it is there. */
  async addFolder(rootfs: string, path: RefusedPath, folder = directoryOf(path.path)): Promise<void> {
    const host = await onHost(rootfs, folder);
    if (host) this.#add(host, path);
  }

  /** A folder and all below it. */
  async addTree(rootfs: string, path: RefusedPath): Promise<void> {
    const top = await onHost(rootfs, path.path);
    if (!top) return;
    const { folders, isComplete } = await foldersBelow(top, FOLDERS_MAX - this.#entries.size);
    if (!isComplete) this.isComplete = false;
    for (const folder of folders) this.#add(folder, path);
  }

  #add(host: Buffer, path: RefusedPath): void {
    const key = `${host.toString("latin1")} ${path.isWrite}`;
    if (this.#entries.has(key)) return;
    if (this.#entries.size >= FOLDERS_MAX) this.isComplete = false;
    else this.#entries.set(key, mark(host, path));
  }

  get entries(): ProtectEntry[] {
    return [...this.#entries.values()];
  }
}

/**
 * What the file system watch is told: the paths, and the folders on the host to mark for them, through which the very
 * inodes of the container are reached before it has run. Volumes and file systems in memory are not among them. Single
 * files come first: a container may make as many folders as it likes below a folder that is named.
 */
export async function toProtectOrder(
  { bundle, manifest }: IdentifiedContainer,
  refused: readonly RefusedPath[],
): Promise<ProtectOrder> {
  const { rootfs } = bundle;
  const named = refused.map((path): ProtectEntry => ({ ...path, host: "" }));
  const marks = new Marks();
  for (const path of refused) if (!path.isListed && !path.isDirectory) await marks.addFolder(rootfs, path);
  const listed = refused.find(({ isListed }) => isListed);
  const programs = listed ? new Set([...manifest.executables.keys()].map(directoryOf)) : [];
  for (const folder of programs) if (listed) await marks.addFolder(rootfs, listed, folder);
  for (const path of refused) if (!path.isListed && path.isDirectory) await marks.addTree(rootfs, path);
  const order = fitProtect(named, marks.entries);
  if (order.isComplete || !listed) return { ...order, isComplete: order.isComplete && marks.isComplete };
  // Programs are not listed in part: whatever is left out could not be run.
  const others = named.filter(({ isListed }) => !isListed);
  return { entries: fitProtect(others, marks.entries).entries, isComplete: false };
}
