import { lstatSync, readlinkSync } from "node:fs";
import { lstat, readlink, statfs } from "node:fs/promises";
import { unescapeText } from "#core/text/escape.ts";

/** Links followed before a path is given up, as many as the kernel follows. */
const LINKS_MAX = 40;
const PARENT = Buffer.from("..");

function parts(path: Buffer): Buffer[] {
  const texts = path.toString("latin1").split("/");
  return texts.filter((text) => text !== "" && text !== ".").map((text) => Buffer.from(text, "latin1"));
}

/** What lies at a place on the way: a link's target, or something else that is there. Undefined for nothing. */
type Found = { readonly link: Buffer | undefined; readonly isReal?: boolean } | undefined;

/** Asks what lies at each place in turn, and answers where the path leads. Absolute links begin at `top`. */
function* follow(
  root: string,
  path: Buffer,
  top: readonly Buffer[] = [],
): Generator<Buffer, Buffer | undefined, Found> {
  const pending = parts(path).reverse();
  const done: Buffer[] = [];
  let links = 0;
  for (let part = pending.pop(); part; part = pending.pop()) {
    if (part.equals(PARENT)) {
      leave(done, top);
      continue;
    }
    const found = yield join(root, [...done, part]);
    if (!found?.link) {
      if (!found) return undefined;
      done.push(part);
      continue;
    }
    links += 1;
    if (links > LINKS_MAX) return undefined;
    if (isAbsolute(found.link)) done.splice(0, done.length, ...(found.isReal ? [] : top));
    pending.push(...parts(found.link).reverse());
  }
  return join("", done);
}

function isAbsolute(path: Buffer): boolean {
  return path[0] === 0x2f;
}

/** Goes up one folder; nothing lies above the top. */
function leave(done: Buffer[], top: readonly Buffer[]): void {
  const isTop = done.length === top.length && done.every((part, i) => part.equals(top[i] as Buffer));
  if (!isTop) done.pop();
}

/**
 * Resolves a path as a container sees it, inside a root folder: every link is followed within that root and never by
 * the host's. Undefined where it does not exist. Paths are bytes.
 */
export function resolveInRoot(root: string, escapedPath: string): Promise<Buffer | undefined> {
  return walk(follow(root, Buffer.from(unescapeText(escapedPath))), async (place) => {
    const status = await lstat(place).catch(() => undefined);
    if (!status?.isSymbolicLink()) return status && { link: undefined };
    return linkAt(place);
  });
}

/** Undefined for one that has been replaced since it was seen. */
async function linkAt(place: Buffer, isReal = false): Promise<Found> {
  const link = await readlink(place, { encoding: "buffer" }).catch(() => undefined);
  return link && { link, isReal };
}

async function walk(
  way: Generator<Buffer, Buffer | undefined, Found>,
  look: (place: Buffer) => Promise<Found>,
): Promise<Buffer | undefined> {
  let step = way.next();
  while (!step.done) step = way.next(await look(step.value));
  return step.value;
}

/** Whose path it is. */
export interface Walker {
  /** The process's own root, where that is not the top of its mounts; empty otherwise. */
  readonly top: Buffer;
  /** What the process has as its number in its container; undefined where it has gone. */
  readonly innerPid: string | undefined;
}

/** Of a process file system (linux/magic.h). */
const PROC_MAGIC = 0x9fa0;
const OWN = new Set(["self", "thread-self"]);

/**
 * As `resolveInRoot`, for a path from the top of the mounts that a process typed: it may lie behind a root of the process's
 * own, and lead through what `/proc` says of the process itself, which is not what it says of who asks here.
 */
export function resolveTyped(root: string, path: Buffer, { top, innerPid }: Walker): Promise<Buffer | undefined> {
  return walk(follow(root, path, parts(top)), async (place) => {
    const status = await lstat(place).catch(() => undefined);
    if (!status?.isSymbolicLink()) return status && { link: undefined };
    const cut = place.lastIndexOf(0x2f);
    const folder = await statfs(place.subarray(0, cut + 1)).catch(() => undefined);
    if (folder?.type !== PROC_MAGIC) return linkAt(place);
    const name = place.subarray(cut + 1).toString("latin1");
    if (OWN.has(name)) return innerPid === undefined ? undefined : { link: Buffer.from(innerPid) };
    // The kernel's text is real already, and not seen from the process's root.
    return linkAt(place, true);
  });
}

/** As `resolveInRoot`, for those who have a thread of their own to wait in. */
export function resolveInRootSync(root: string, escapedPath: string): Buffer | undefined {
  const way = follow(root, Buffer.from(unescapeText(escapedPath)));
  let step = way.next();
  while (!step.done) {
    const place = step.value;
    step = way.next(lookAt(place));
  }
  return step.value;
}

function lookAt(place: Buffer): Found {
  try {
    const isLink = lstatSync(place).isSymbolicLink();
    return { link: isLink ? readlinkSync(place, { encoding: "buffer" }) : undefined };
  } catch {
    // Also a name that is too long for any file: there is nothing.
    return undefined;
  }
}

/** Joins a root with path components. */
export function join(root: string, components: readonly Buffer[]): Buffer {
  return Buffer.concat([Buffer.from(root), ...components.flatMap((part) => [Buffer.from("/"), part])]);
}
