import { readlinkSync } from "node:fs";
import { escapeBytes } from "#core/text/escape.ts";
import { ContentState } from "#gen/gabion/event/v1/event_pb.ts";
import type { Content } from "../pipeline/exec-event.ts";
import type { ExecFrame } from "../wire/frames.ts";
import { CONTENT_IMAGE, ExecFlag } from "../wire/layout.ts";
import type { FileIdentity } from "./file-identity.ts";
import type { HashCache } from "./hash-cache.ts";
import type { Manifest } from "./manifest.ts";
import { resolveInRoot } from "./resolve.ts";

/** What is known of a container's files. */
export interface ContentContext {
  readonly rootfs: string;
  readonly manifest: Manifest;
  readonly cache: HashCache;
}

/** Ways to the file, best first: by the process itself, through its root, through the root file system on the host. */
async function* places(frame: ExecFrame, path: string, rootfs: string): AsyncIterable<string | Buffer> {
  yield `/proc/${frame.pid}/exe`;
  if ((frame.flags & (ExecFlag.MEMFD | ExecFlag.UNLINKED | ExecFlag.HOST_MOUNTS)) !== 0) return;
  for (const root of [`/proc/${frame.pid}/root`, rootfs]) {
    const resolved = await resolveInRoot(root, path);
    if (resolved) yield Buffer.concat([Buffer.from(root), resolved]);
  }
}

async function hashOf(frame: ExecFrame, path: string, { rootfs, cache }: ContentContext): Promise<string> {
  const expected: FileIdentity = { inode: frame.inode, device: frame.device, ctimeNs: frame.ctimeNs };
  const known = cache.known(expected);
  if (known) return known;
  for await (const place of places(frame, path, rootfs)) {
    const hashed = await cache.hash(place, expected);
    if (hashed) return hashed.sha256;
  }
  return "";
}

/** What the kernel has told by itself: in memory only, or in the upper layer of the image's overlay. */
function stateByKernel({ flags, content }: ExecFrame): ContentState | undefined {
  if (content === CONTENT_IMAGE) return ContentState.UNCHANGED;
  if ((flags & (ExecFlag.MEMFD | ExecFlag.HOST_MOUNTS)) !== 0) return ContentState.FOREIGN;
  if ((flags & ExecFlag.OVERLAY_UPPER) === 0) return undefined;
  return (flags & ExecFlag.OVERLAY_NEW) !== 0 ? ContentState.FOREIGN : ContentState.CHANGED;
}

/**
 * Elsewhere the manifest decides: what it lists is the image's, as long as the content is the listed one. What it does not
 * list is not the image's, also where it has gone before it could be read.
 */
function stateByManifest(path: string, sha256: string, { manifest }: ContentContext): ContentState {
  const listed = manifest.executables.get(path);
  if (!listed) return manifest.isComplete ? ContentState.FOREIGN : ContentState.UNKNOWN;
  if (sha256 === "") return ContentState.UNKNOWN;
  return listed.sha256 === sha256 ? ContentState.UNCHANGED : ContentState.CHANGED;
}

/** Content of what an exec ran, against the image. */
export async function contentOf(frame: ExecFrame, path: string, context: ContentContext): Promise<Content> {
  const sha256 = await hashOf(frame, path, context);
  const isCut = (frame.flags & ExecFlag.PATH_TRUNCATED) !== 0 && sha256 === "";
  const state = stateByKernel(frame) ?? (isCut ? ContentState.UNKNOWN : stateByManifest(path, sha256, context));
  return { state, sha256 };
}

/**
 * Content of a script's own file, which the kernel has closed before anyone could look: by its path in the container,
 * links resolved there. A path that may have been cut tells nothing.
 */
export async function scriptContentOf(frame: ExecFrame, path: string, context: ContentContext): Promise<Content> {
  const unknown = { state: ContentState.UNKNOWN, sha256: "" };
  if ((frame.flags & ExecFlag.NAME_TRUNCATED) !== 0) return unknown;
  for (const root of [`/proc/${frame.pid}/root`, context.rootfs]) {
    const resolved = await resolveInRoot(root, path);
    const hashed = resolved && (await context.cache.hash(Buffer.concat([Buffer.from(root), resolved])));
    if (!hashed) continue;
    return { state: stateByManifest(escapeBytes(resolved), hashed.sha256, context), sha256: hashed.sha256 };
  }
  return unknown;
}

/** The whole real path of a living process, for paths longer than the kernel side keeps. */
export function fullPathOf(pid: number): string | undefined {
  try {
    return escapeBytes(readlinkSync(`/proc/${pid}/exe`, { encoding: "buffer" }));
  } catch {
    return undefined;
  }
}
