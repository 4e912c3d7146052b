import { lstat, readlink } from "node:fs/promises";
import { unescapeText } from "#core/text/escape.ts";

/** Links followed before a path is given up, as many as the kernel follows. */
const LINKS_MAX = 40;

function parts(path: Buffer): Buffer[] {
  const text = path.toString("latin1");
  return text.split("/").map((part) => Buffer.from(part, "latin1"));
}

/**
 * Resolves a path as a container sees it, inside a root folder: every link is followed within that root and never by
 * the host's. Undefined where it does not exist. Paths are bytes.
 */
export async function resolveInRoot(root: string, escapedPath: string): Promise<Buffer | undefined> {
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
    const full = join(root, [...done, part]);
    const status = await lstat(full).catch(() => undefined);
    if (!status) return undefined;
    if (!status.isSymbolicLink()) {
      done.push(part);
      continue;
    }
    links += 1;
    if (links > LINKS_MAX) return undefined;
    const target = await readlink(full, { encoding: "buffer" });
    if (target[0] === 0x2f) done.length = 0;
    pending.push(...parts(target).reverse());
  }
  return join("", done);
}

/** Joins a root with path components. */
export function join(root: string, components: readonly Buffer[]): Buffer {
  return Buffer.concat([Buffer.from(root), ...components.flatMap((part) => [Buffer.from("/"), part])]);
}
