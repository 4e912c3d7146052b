import type { Stats } from "node:fs";
import { lstat, readFile, readlink } from "node:fs/promises";
import { escapeBytes, unescapeText } from "#core/text/escape.ts";
import type { FileFrame } from "../wire/frames.ts";
import { FileFlag } from "../wire/layout.ts";
import { resolveTyped, type Walker } from "./resolve.ts";

/** Folders with a number for each process, by what they stand for. */
function withoutPid(path: string, pid: number): string {
  return path.replace(/^\/proc\/(\d+)(?=\/|$)/, (_, number: string) =>
    Number(number) === pid ? "/proc/self" : "/proc/*",
  );
}

/**
 * A path as typed, from the top of the mounts: an absolute one has a base where the process has a root of its own. With
 * nothing typed it is what the descriptor stands for.
 */
function absolute(base: Uint8Array, typed: Uint8Array): Buffer {
  if (typed.length === 0) return Buffer.from(base);
  return base.length === 0 ? Buffer.from(typed) : Buffer.concat([base, Buffer.from("/"), typed]);
}

/** What `/proc/self/root` leads to is known without the process, which may go meanwhile. */
const OWN_ROOT = /^\/+proc\/+(self|thread-self)\/+root(?=\/|$)/;
/** Where only the process itself knew what it leads to. */
const OWN_FOLDERS = /^\/+proc\/+(self|thread-self|\d+)\//;

function withoutOwnRoot(path: Buffer, { top }: Walker): Buffer {
  if (top.length > 0) return path;
  const text = path.toString("latin1");
  return OWN_ROOT.test(text) ? Buffer.from(text.replace(OWN_ROOT, "/"), "latin1") : path;
}

/** Who typed it. What the kernel did not say is asked of the process, where it is still there. */
async function walkerOf(frame: FileFrame): Promise<Walker> {
  const { pid } = frame.actor;
  const status = await readFile(`/proc/${pid}/status`, "latin1").catch(() => "");
  const innerPid = /^NSpid:.*\s(\d+)$/m.exec(status)?.[1];
  if ((frame.flags & FileFlag.ROOTED) === 0) return { top: Buffer.alloc(0), innerPid };
  if (frame.path[0] === 0x2f) return { top: Buffer.from(frame.base), innerPid };
  if (frame.target[0] === 0x2f) return { top: Buffer.from(frame.targetBase), innerPid };
  const top = await readlink(`/proc/${pid}/root`, { encoding: "buffer" }).catch(() => Buffer.alloc(0));
  return { top, innerPid };
}

/** How long a folder that was resolved is taken to be where it was, in ms: as long as one burst of changes. */
const FOLDER_MS = 100;
const FOLDERS_MAX = 4_096;
const folders = new Map<string, { readonly resolved: Buffer | undefined; readonly untilMs: number }>();

async function resolveFolder(root: string, folder: Buffer, walker: Walker): Promise<Buffer | undefined> {
  const key = `${root} ${walker.innerPid} ${walker.top.toString("latin1")} ${folder.toString("latin1")}`;
  const now = performance.now();
  const known = folders.get(key);
  if (known && known.untilMs > now) return known.resolved;
  const resolved = await resolveTyped(root, folder, walker).catch(() => undefined);
  if (folders.size >= FOLDERS_MAX) folders.clear();
  folders.set(key, { resolved, untilMs: now + FOLDER_MS });
  return resolved;
}

/**
 * The real path of a path as it was typed: links of the folders on the way are followed inside the container, the last
 * component only where the call follows it, because a rename or removal is about the link itself. Where the folder is
 * gone meanwhile the text stands as it is; what only the process knew is marked as a path that was cut.
 */
async function realPath(root: string, path: Buffer, isFollowed: boolean, walker: Walker): Promise<string> {
  const full = withoutOwnRoot(path, walker);
  const end = isFollowed ? await resolveTyped(root, full, walker).catch(() => undefined) : undefined;
  if (end !== undefined) return escapeBytes(end);
  const cut = full.lastIndexOf(0x2f);
  const name = full.subarray(cut + 1);
  if (name.equals(Buffer.from("..")) || name.equals(Buffer.from("."))) return escapeBytes(full);
  const resolved = await resolveFolder(root, full.subarray(0, cut), walker);
  if (resolved !== undefined) return escapeBytes(Buffer.concat([resolved, Buffer.from("/"), name]));
  return OWN_FOLDERS.test(full.toString("latin1")) ? `…${escapeBytes(full)}` : escapeBytes(full);
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
  const walker = await walkerOf(frame);
  const resolve = async (base: Uint8Array, typed: Uint8Array, isEndFollowed: boolean) =>
    mark(withoutPid(await realPath(root, absolute(base, typed), isEndFollowed, walker), frame.actor.pid));
  return {
    path: await resolve(frame.base, frame.path, isFollowed),
    // What is put there takes the place of a link.
    newPath: frame.target.length === 0 ? "" : await resolve(frame.targetBase, frame.target, false),
  };
}

const ANY_EXECUTE = 0o111;

/** Of what lies at a path below a root; a link is not followed. Undefined for nothing. */
export async function statusAt(root: string, path: string): Promise<Stats | undefined> {
  const full = Buffer.concat([Buffer.from(root), Buffer.from(unescapeText(path))]);
  return lstat(full).catch(() => undefined);
}

/** True if a folder lies at a path below a root. */
export async function isFolderAt(root: string, path: string): Promise<boolean> {
  return (await statusAt(root, path))?.isDirectory() === true;
}

/** True if a regular file that may be executed lies at a path below a root. A link is not followed. */
export async function isExecutableAt(root: string, path: string): Promise<boolean> {
  const status = await statusAt(root, path);
  return status?.isFile() === true && (status.mode & ANY_EXECUTE) !== 0;
}
