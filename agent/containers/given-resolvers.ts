import { isAbsolute } from "node:path";
import { resolversOf } from "#core/detect/resolvers.ts";
import { escapeBytes } from "#core/text/escape.ts";
import { ImageFiles } from "../static/image-files.ts";

/** A mount of a bundle, as the OCI runtime specification has it. */
export interface BundleMount {
  readonly destination: string;
  readonly source: string;
  readonly type: string;
  readonly options: readonly string[];
}

const FILE = "/etc/resolv.conf";
/** Longer files are not read whole: resolvers stand in their first lines. */
const FILE_MAX_BYTES = 64 * 1024;

function isBind({ type, options, source }: BundleMount): boolean {
  return isAbsolute(source) && (type === "bind" || options.includes("bind") || options.includes("rbind"));
}

/** Root and path below it where the file lies; undefined where only the container will have it. */
function placeOf(rootfs: string, mounts: readonly BundleMount[]): readonly [root: string, path: string] | undefined {
  const over = mounts.findLast(({ destination }) => destination === FILE || FILE.startsWith(`${destination}/`));
  if (!over) return [rootfs, FILE];
  if (!isBind(over)) return undefined;
  const rest = FILE.slice(over.destination.length);
  return rest === "" ? ["/", escapeBytes(Buffer.from(over.source))] : [over.source, rest];
}

/**
 * Addresses of the resolvers that a container is given, from the file that its runtime mounts or its image has; none where
 * that cannot be told. Read before the container runs: what it writes there later is its own.
 */
export function givenResolvers(rootfs: string, mounts: readonly BundleMount[]): string[] {
  const place = placeOf(rootfs, mounts);
  if (!place) return [];
  try {
    const [root, path] = place;
    return resolversOf(new ImageFiles(root).read(path, FILE_MAX_BYTES)?.bytes.toString("latin1") ?? "");
  } catch {
    return []; // no such root
  }
}
