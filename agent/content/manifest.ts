import { createHash } from "node:crypto";
import { lstat, readlink } from "node:fs/promises";
import { join } from "node:path";
import { escapeBytes } from "#core/text/escape.ts";
import type { KnownFile } from "../wire/encode.ts";
import { entriesOf } from "./entries.ts";
import { type FileIdentity, identityOf } from "./file-identity.ts";
import type { HashCache } from "./hash-cache.ts";

/** An executable file of an image. */
export interface ImageFile extends FileIdentity {
  readonly sha256: string;
}

/** What a root file system held when the container was made. */
export interface Manifest {
  /** SHA-256 over path, mode, size and, for executables, content of everything in it. */
  readonly digest: string;
  /** Executables by path inside the container, in escaped form. */
  readonly executables: ReadonlyMap<string, ImageFile>;
  /** True if there was not the time to read all: then the digest is no digest of what is there. */
  readonly isCutShort: boolean;
  /** False if there was more than the limits let in, or could be read: then nothing follows from a file not being listed. */
  readonly isComplete: boolean;
}

const ENTRIES_MAX = 300_000;
const EXECUTABLES_MAX = 50_000;
const ANY_EXECUTE = 0o111n;

interface Entry {
  readonly path: string;
  readonly line: string;
}

/**
 * Paths are kept as bytes in latin1, so that names which are not UTF-8 survive. Undefined stands for a folder that could
 * not be read whole: one that goes meanwhile, or lies so deep that its path is too long.
 */
async function* walk(root: string): AsyncGenerator<string | undefined> {
  const pending = [""];
  while (pending.length > 0) {
    const directory = pending.pop() as string;
    try {
      for await (const { name, isFolder } of entriesOf(Buffer.from(join(root, directory), "latin1"))) {
        const path = `${directory}/${name.toString("latin1")}`;
        yield path;
        if (isFolder) pending.push(path);
      }
    } catch {
      yield undefined;
    }
  }
}

/** What the digest of a root file system covers of one entry; undefined where it vanished meanwhile. */
async function describe(
  root: string,
  path: string,
  executables: Map<string, ImageFile>,
  cache: HashCache,
): Promise<string | undefined> {
  const full = Buffer.from(join(root, path), "latin1");
  const status = await lstat(full, { bigint: true }).catch(() => undefined);
  if (!status) return undefined;
  const head = `${path}\0${status.mode.toString(8)}\0`;
  if (status.isSymbolicLink()) {
    const target = await readlink(full, { encoding: "buffer" }).catch(() => undefined);
    return target && `${head}${target.toString("latin1")}\n`;
  }
  if (!status.isFile()) return `${head}\n`;
  const isRead = (status.mode & ANY_EXECUTE) !== 0n && executables.size < EXECUTABLES_MAX;
  const hashed = isRead ? await cache.hash(full, identityOf(status)) : undefined;
  if (hashed) executables.set(escapeBytes(Buffer.from(path, "latin1")), { ...hashed.identity, sha256: hashed.sha256 });
  return `${head}${status.size}\0${hashed?.sha256 ?? ""}\n`;
}

/**
 * Reads a root file system, as far as the signal gives it time. Executables are hashed, everything else counts by its
 * metadata; ownership and times do not count, so that two unpackings of one image agree.
 */
export async function readManifest(rootfs: string, cache: HashCache, signal: AbortSignal): Promise<Manifest> {
  const root = Buffer.from(rootfs, "utf8").toString("latin1");
  const executables = new Map<string, ImageFile>();
  const entries: Entry[] = [];
  let isComplete = true;
  for await (const path of walk(root)) {
    const isFull = entries.length >= ENTRIES_MAX || executables.size >= EXECUTABLES_MAX;
    if (path === undefined || isFull || signal.aborted) isComplete = false;
    if (isFull || signal.aborted) break;
    if (path === undefined) continue;
    const line = await describe(root, path, executables, cache);
    if (line !== undefined) entries.push({ path, line });
  }
  entries.sort((a, b) => (a.path < b.path ? -1 : 1));
  const hash = createHash("sha256");
  for (const { line } of entries) hash.update(line, "latin1");
  return { digest: hash.digest("hex"), executables, isComplete, isCutShort: signal.aborted };
}

/** Executables of an image as the kernel is told of them. */
export function imageFiles({ executables }: Manifest): KnownFile[] {
  return [...executables.values()].map(({ inode, device, ctimeNs }) => ({ inode, device, ctimeNs, content: "image" }));
}
