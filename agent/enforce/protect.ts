import { lstat, readdir } from "node:fs/promises";
import { directoryOf } from "#core/policy/file-policy.ts";
import type { RefusedPath } from "#core/policy/kernel-slot.ts";
import type { IdentifiedContainer } from "../containers/identify.ts";
import { join, resolveInRoot } from "../content/resolve.ts";
import type { ProtectEntry } from "../wire/encode.ts";

/** Folders watched for one container; more would take longer to mark than a container may be held. */
const FOLDERS_MAX = 4_096;
const DEPTH_MAX = 16;

/** Folders below one on the host, itself first. */
async function foldersBelow(directory: Buffer, depth = 0): Promise<Buffer[]> {
  if (depth > DEPTH_MAX) return [directory];
  const entries = await readdir(directory, { withFileTypes: true, encoding: "buffer" }).catch(() => []);
  const children = entries.filter((entry) => entry.isDirectory()).slice(0, FOLDERS_MAX);
  const below = await Promise.all(
    children.map(({ name }) => foldersBelow(Buffer.concat([directory, Buffer.from("/"), name]), depth + 1)),
  );
  return [directory, ...below.flat()].slice(0, FOLDERS_MAX);
}

/** A folder of the container as it lies on the host; undefined where it does not exist there. */
async function onHost(rootfs: string, path: string): Promise<Buffer | undefined> {
  const resolved = await resolveInRoot(rootfs, path);
  if (resolved === undefined) return undefined;
  const full = resolved.length === 0 ? Buffer.from(rootfs) : join(rootfs, [resolved.subarray(1)]);
  return (await lstat(full).catch(() => undefined))?.isDirectory() ? full : undefined;
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

/**
 * What the file system watch is told: the paths, and the folders on the host to mark for them, through which the very
 * inodes of the container are reached before it has run. Volumes and file systems in memory are not among them.
 */
export async function toProtectEntries(
  { bundle, manifest }: IdentifiedContainer,
  refused: readonly RefusedPath[],
): Promise<ProtectEntry[]> {
  const { rootfs } = bundle;
  const named = refused.map((path): ProtectEntry => ({ ...path, host: "" }));
  const marks = new Map<string, ProtectEntry>();
  const add = (host: Buffer | undefined, path: RefusedPath) => {
    if (host === undefined || marks.size >= FOLDERS_MAX) return;
    const key = `${host.toString("latin1")} ${path.isWrite}`;
    if (!marks.has(key)) marks.set(key, mark(host, path));
  };
  for (const path of refused.filter(({ isListed }) => !isListed)) {
    const host = await onHost(rootfs, path.isDirectory ? path.path : directoryOf(path.path));
    if (path.isDirectory && host) for (const folder of await foldersBelow(host)) add(folder, path);
    else add(host, path);
  }
  const listed = refused.find(({ isListed }) => isListed);
  if (listed) {
    const folders = new Set([...manifest.executables.keys()].map(directoryOf));
    for (const folder of folders) add(await onHost(rootfs, folder), listed);
  }
  return [...named, ...marks.values()];
}
