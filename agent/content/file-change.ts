import { escapeBytes } from "#core/text/escape.ts";
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

/**
 * The real path of a path as it was typed: links of the folders on the way are followed inside the container, the last
 * component is not, because a rename or removal is about the link itself. Where the folder is gone meanwhile the text
 * stands as it is.
 */
async function realPath(root: string, base: Uint8Array, typed: Uint8Array): Promise<string> {
  const full = absolute(base, typed);
  const cut = full.lastIndexOf(0x2f);
  const folder = escapeBytes(full.subarray(0, cut));
  const name = full.subarray(cut + 1);
  if (name.equals(Buffer.from("..")) || name.equals(Buffer.from("."))) return escapeBytes(full);
  const resolved = await resolveInRoot(root, folder).catch(() => undefined);
  return escapeBytes(resolved === undefined ? full : join(resolved.toString("latin1"), [name]));
}

/** Real paths of a change: of the file, and where it has two of the other one. A path that was cut begins with `…`. */
export async function pathsOfChange(frame: FileFrame, rootfs: string): Promise<{ path: string; newPath: string }> {
  const mark = (path: string) => ((frame.flags & FileFlag.CUT) === 0 ? path : `…${path}`);
  if ((frame.flags & FileFlag.TYPED) === 0) {
    return { path: mark(withoutPid(escapeBytes(frame.path), frame.actor.pid)), newPath: "" };
  }
  const root = `/proc/${frame.actor.pid}/root`;
  const resolve = async (base: Uint8Array, typed: Uint8Array) => {
    const isThere = (await resolveInRoot(root, "/").catch(() => undefined)) !== undefined;
    return mark(withoutPid(await realPath(isThere ? root : rootfs, base, typed), frame.actor.pid));
  };
  return {
    path: await resolve(frame.base, frame.path),
    newPath: frame.target.length === 0 ? "" : await resolve(frame.targetBase, frame.target),
  };
}
