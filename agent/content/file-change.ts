import { lstat } from "node:fs/promises";
import { escapeBytes, unescapeText } from "#core/text/escape.ts";
import type { FileFrame } from "../wire/frames.ts";
import { FileFlag } from "../wire/layout.ts";
import { join, resolveInRoot } from "./resolve.ts";

/** Folders with a number for each process, by what they stand for. */
function withoutPid(path: string, pid: number): string {
  return path.replace(/^\/proc\/(\d+)(?=\/|$)/, (_, number: string) =>
    Number(number) === pid ? "/proc/self" : "/proc/*",
  );
}

function absolute(base: Uint8Array, typed: Uint8Array): Buffer {
  if (typed[0] === 0x2f) return Buffer.from(typed);
  return Buffer.concat([base, Buffer.from("/"), typed]);
}

/** How long a folder that was resolved is taken to be where it was, in ms: as long as one burst of changes. */
const FOLDER_MS = 100;
const FOLDERS_MAX = 4_096;
const folders = new Map<string, { readonly resolved: Buffer | undefined; readonly untilMs: number }>();

async function resolveFolder(root: string, folder: string): Promise<Buffer | undefined> {
  const key = `${root} ${folder}`;
  const now = performance.now();
  const known = folders.get(key);
  if (known && known.untilMs > now) return known.resolved;
  const resolved = await resolveInRoot(root, folder).catch(() => undefined);
  if (folders.size >= FOLDERS_MAX) folders.clear();
  folders.set(key, { resolved, untilMs: now + FOLDER_MS });
  return resolved;
}

/**
 * The real path of a path as it was typed: links of the folders on the way are followed inside the container, the last
 * component only where the call follows it, because a rename or removal is about the link itself. Where the folder is
 * gone meanwhile the text stands as it is.
 */
async function realPath(root: string, base: Uint8Array, typed: Uint8Array, isFollowed: boolean): Promise<string> {
  const full = absolute(base, typed);
  const end = isFollowed ? await resolveInRoot(root, escapeBytes(full)).catch(() => undefined) : undefined;
  if (end !== undefined) return escapeBytes(end);
  const cut = full.lastIndexOf(0x2f);
  const folder = escapeBytes(full.subarray(0, cut));
  const name = full.subarray(cut + 1);
  if (name.equals(Buffer.from("..")) || name.equals(Buffer.from("."))) return escapeBytes(full);
  const resolved = await resolveFolder(root, folder);
  return escapeBytes(resolved === undefined ? full : join(resolved.toString("latin1"), [name]));
}

/** True where paths are as they were typed; otherwise they are real already, and no root is looked at. */
export function isTyped({ flags }: FileFrame): boolean {
  return (flags & FileFlag.TYPED) !== 0;
}

/** Real paths of a change: of the file, and where it has two of the other one. A path that was cut begins with `…`. */
export async function pathsOfChange(frame: FileFrame, root: string): Promise<{ path: string; newPath: string }> {
  const mark = (path: string) => ((frame.flags & FileFlag.CUT) === 0 ? path : `…${path}`);
  if (!isTyped(frame)) return { path: mark(withoutPid(escapeBytes(frame.path), frame.actor.pid)), newPath: "" };
  const isFollowed = (frame.flags & FileFlag.FOLLOWED) !== 0;
  const resolve = async (base: Uint8Array, typed: Uint8Array) =>
    mark(withoutPid(await realPath(root, base, typed, isFollowed), frame.actor.pid));
  return {
    path: await resolve(frame.base, frame.path),
    newPath: frame.target.length === 0 ? "" : await resolve(frame.targetBase, frame.target),
  };
}

const ANY_EXECUTE = 0o111;

/** True if a regular file that may be executed lies at a path below a root. A link is not followed. */
export async function isExecutableAt(root: string, path: string): Promise<boolean> {
  const full = Buffer.concat([Buffer.from(root), Buffer.from(unescapeText(path))]);
  const status = await lstat(full).catch(() => undefined);
  return status?.isFile() === true && (status.mode & ANY_EXECUTE) !== 0;
}
