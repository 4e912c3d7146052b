import { timestampMs } from "@bufbuild/protobuf/wkt";
import type { FileSet } from "#gen/gabion/intel/v1/intel_pb.ts";

/** What is known of a bad file. */
export interface BadFile {
  readonly feed: string;
  readonly description: string;
  /** When it stops being one, in ms; undefined for never. */
  readonly expireMs: number | undefined;
}

/** Files that are known to be bad, by the SHA-256 of their content in hex. */
export interface BadFiles {
  /** Of the set that they came with; 0 for none. */
  readonly revision: bigint;
  readonly byHash: ReadonlyMap<string, BadFile>;
}

export const NO_BAD_FILES: BadFiles = { revision: 0n, byHash: new Map() };

/** The set as policy asks it, without what has expired. */
export function compileBadFiles(set: FileSet, nowMs: number): BadFiles {
  const entries = set.files.map(({ sha256, feed, description, expireTime }) => {
    const file = { feed, description, expireMs: expireTime && timestampMs(expireTime) };
    return [Buffer.from(sha256).toString("hex"), file] as const;
  });
  const living = entries.filter(([, { expireMs }]) => expireMs === undefined || expireMs > nowMs);
  return { revision: set.revision, byHash: new Map(living) };
}

/** Who says of a file that it is bad, for a person. */
export function badFileText({ feed, description }: BadFile): string {
  return description === "" ? `listed by ${feed}` : `listed by ${feed}: ${description}`;
}
