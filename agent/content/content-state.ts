import { readlinkSync } from "node:fs";
import { escapeBytes, unescapeText } from "#core/text/escape.ts";
import { ContentState } from "#gen/gabion/event/v1/event_pb.ts";
import type { Content } from "../pipeline/exec-event.ts";
import type { ExecFrame } from "../wire/frames.ts";
import { CONTENT_IMAGE, ExecFlag } from "../wire/layout.ts";
import type { FileIdentity } from "./file-identity.ts";
import type { HashCache } from "./hash-cache.ts";
import type { Manifest } from "./manifest.ts";

/** What is known of a container's files. */
export interface ContentContext {
  readonly rootfs: string;
  readonly manifest: Manifest;
  readonly cache: HashCache;
}

function join(root: string, path: string): Buffer {
  return Buffer.concat([Buffer.from(root), unescapeText(path)]);
}

/** Ways to the file, best first: by the process itself, through its root, through the root file system on the host. */
function places(frame: ExecFrame, path: string, rootfs: string): (string | Buffer)[] {
  const exe = `/proc/${frame.pid}/exe`;
  if ((frame.flags & (ExecFlag.MEMFD | ExecFlag.UNLINKED)) !== 0) return [exe];
  return [exe, join(`/proc/${frame.pid}/root`, path), join(rootfs, path)];
}

async function hashOf(frame: ExecFrame, path: string, { rootfs, cache }: ContentContext): Promise<string> {
  const expected: FileIdentity = { inode: frame.inode, device: frame.device, ctimeNs: frame.ctimeNs };
  const known = cache.known(expected);
  if (known) return known;
  for (const place of places(frame, path, rootfs)) {
    const hashed = await cache.hash(place, expected);
    if (hashed) return hashed.sha256;
  }
  return "";
}

/** In an overlay the kernel has told image files from others already; elsewhere the manifest decides. */
function stateOf(frame: ExecFrame, path: string, sha256: string, { manifest }: ContentContext): ContentState {
  const listed = manifest.executables.get(path);
  if (frame.content === CONTENT_IMAGE) return ContentState.UNCHANGED;
  if (sha256 === "") return ContentState.UNKNOWN;
  if (listed) return listed.sha256 === sha256 ? ContentState.UNCHANGED : ContentState.CHANGED;
  if ((frame.flags & ExecFlag.OVERLAY_UPPER) !== 0 && (frame.flags & ExecFlag.OVERLAY_NEW) === 0)
    return ContentState.CHANGED;
  return manifest.isComplete ? ContentState.FOREIGN : ContentState.UNKNOWN;
}

/** Content of what an exec ran, against the image. For scripts the script's file counts, where it is a changed one. */
export async function contentOf(frame: ExecFrame, path: string, context: ContentContext): Promise<Content> {
  const sha256 = await hashOf(frame, path, context);
  return { state: stateOf(frame, path, sha256, context), sha256 };
}

/** Content of a script's own file, which the kernel has closed before anyone could look: by its path in the container. */
export async function scriptContentOf(frame: ExecFrame, path: string, context: ContentContext): Promise<Content> {
  const listed = context.manifest.executables.get(path);
  const throughRoot = await context.cache.hash(join(`/proc/${frame.pid}/root`, path));
  const hashed = throughRoot ?? (await context.cache.hash(join(context.rootfs, path)));
  const sha256 = hashed?.sha256 ?? "";
  if (sha256 === "") return { state: ContentState.UNKNOWN, sha256 };
  if (!listed) return { state: context.manifest.isComplete ? ContentState.FOREIGN : ContentState.UNKNOWN, sha256 };
  return { state: listed.sha256 === sha256 ? ContentState.UNCHANGED : ContentState.CHANGED, sha256 };
}

/** The whole real path of a living process, for paths longer than the kernel side keeps. */
export function fullPathOf(pid: number): string | undefined {
  try {
    return escapeBytes(readlinkSync(`/proc/${pid}/exe`, { encoding: "buffer" }));
  } catch {
    return undefined;
  }
}
