import { lstatSync, readlinkSync } from "node:fs";
import { lstat, readlink } from "node:fs/promises";
import { unescapeText } from "#core/text/escape.ts";

/** Links followed before a path is given up, as many as the kernel follows. */
const LINKS_MAX = 40;

function parts(path: Buffer): Buffer[] {
  const text = path.toString("latin1");
  return text.split("/").map((part) => Buffer.from(part, "latin1"));
}

/** What lies at a place on the way: a link's target, or something else that is there. Undefined for nothing. */
type Found = { readonly link: Buffer | undefined } | undefined;

/** Asks what lies at each place in turn, and answers where the path leads. */
function* follow(root: string, escapedPath: string): Generator<Buffer, Buffer | undefined, Found> {
  const pending = parts(Buffer.from(unescapeText(escapedPath))).reverse();
  const done: Buffer[] = [];
  let links = 0;
  while (pending.length > 0) {
    const part = pending.pop() as Buffer;
    const name = part.toString("latin1");
    if (name === "" || name === ".") continue;
    if (name === "..") {
      done.pop();
      continue;
    }
    const found = yield join(root, [...done, part]);
    if (!found) return undefined;
    if (!found.link) {
      done.push(part);
      continue;
    }
    links += 1;
    if (links > LINKS_MAX) return undefined;
    if (found.link[0] === 0x2f) done.length = 0;
    pending.push(...parts(found.link).reverse());
  }
  return join("", done);
}

/**
 * Resolves a path as a container sees it, inside a root folder: every link is followed within that root and never by
 * the host's. Undefined where it does not exist. Paths are bytes.
 */
export async function resolveInRoot(root: string, escapedPath: string): Promise<Buffer | undefined> {
  const way = follow(root, escapedPath);
  let step = way.next();
  while (!step.done) {
    const place = step.value;
    const status = await lstat(place).catch(() => undefined);
    const link = status?.isSymbolicLink() ? await readlink(place, { encoding: "buffer" }) : undefined;
    step = way.next(status && { link });
  }
  return step.value;
}

/** As `resolveInRoot`, for those who have a thread of their own to wait in. */
export function resolveInRootSync(root: string, escapedPath: string): Buffer | undefined {
  const way = follow(root, escapedPath);
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
