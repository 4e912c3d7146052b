import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { isAbsolute, normalize } from "node:path";
import { resolversOf } from "#core/detect/resolvers.ts";
import { escapeBytes } from "#core/text/escape.ts";
import { resolveInRoot } from "../content/resolve.ts";

/** A mount of a bundle, as the OCI runtime specification has it. */
export interface BundleMount {
  readonly destination: string;
  readonly source: string;
  readonly type: string;
  readonly options: readonly string[];
}

/** Of a bundle what says which file a container has as its resolv.conf. */
interface Mounted {
  readonly rootfs: string;
  readonly mounts: readonly BundleMount[];
}

const FILE = "/etc/resolv.conf";
/** Longer files are not read whole: resolvers stand in their first lines. */
const FILE_MAX_BYTES = 64 * 1024;
/** Whoever put it there: what is no file is not waited for, and no link that came into its place meanwhile is followed. */
const FLAGS = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY | constants.O_NOFOLLOW;
/** Files that are remembered; the oldest go first. */
const KNOWN_MAX = 4_096;

function isBind({ type, options, source }: BundleMount): boolean {
  return isAbsolute(source) && (type === "bind" || options.includes("bind") || options.includes("rbind"));
}

/** Root and path below it where the file lies; undefined where only the container will have it. */
function placeOf({ rootfs, mounts }: Mounted): readonly [root: string, path: string] | undefined {
  const all = mounts.map((mount) => ({ ...mount, at: normalize(mount.destination).replace(/\/$/, "") }));
  const over = all.findLast(({ at }) => at === FILE || FILE.startsWith(`${at}/`));
  if (!over) return [rootfs, FILE];
  if (!isBind(over)) return undefined;
  const rest = FILE.slice(over.at.length);
  return rest === "" ? ["", escapeBytes(Buffer.from(over.source))] : [over.source, rest];
}

/**
 * Which resolvers containers are given, by the file that the runtime mounts or the image has: read before the container runs,
 * and remembered. The containers of a pod share a file and may write to it: who begins later is given what stood there first.
 */
export class GivenResolvers {
  /** By the file's identity: one that was put in its place is another. */
  readonly #known = new Map<string, readonly string[]>();

  /** Their addresses; none where that cannot be told, or not in time. */
  async of(mounted: Mounted, signal: AbortSignal): Promise<readonly string[]> {
    const place = placeOf(mounted);
    if (!place) return [];
    // A file system that does not answer must not hold up the container, or anything else.
    const late = new Promise<readonly string[]>((resolve) => {
      signal.addEventListener("abort", () => resolve([]), { once: true });
    });
    return signal.aborted ? [] : Promise.race([this.#read(...place).catch(() => []), late]);
  }

  async #read(root: string, path: string): Promise<readonly string[]> {
    const real = await resolveInRoot(root, path);
    if (!real) return [];
    await using file = await open(Buffer.concat([Buffer.from(root), real]), FLAGS);
    const status = await file.stat({ bigint: true });
    if (!status.isFile()) return [];
    const identity = [status.dev, status.ino, status.birthtimeNs].join(" ");
    const known = this.#known.get(identity);
    if (known) return known;
    const { buffer, bytesRead } = await file.read(Buffer.alloc(FILE_MAX_BYTES), 0, FILE_MAX_BYTES, 0);
    const resolvers = resolversOf(buffer.toString("latin1", 0, bytesRead));
    const [oldest] = this.#known.keys();
    if (oldest !== undefined && this.#known.size >= KNOWN_MAX) this.#known.delete(oldest);
    this.#known.set(identity, resolvers);
    return resolvers;
  }
}
