import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { type FileIdentity, identityKey, identityOf, isSameFile } from "./file-identity.ts";

/** Files larger than this are not hashed. */
const FILE_MAX_BYTES = 512 * 1024 * 1024;
const CHUNK_BYTES = 1024 * 1024;

/** What a container puts in a path's place must neither be waited for nor become the agent's terminal. */
const OPEN_FLAGS = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;

/** `/proc/PID/exe` leads to the very file; every other link could lead anywhere. */
function isOwnLink(path: string | Buffer): boolean {
  return typeof path === "string" && /^\/proc\/\d+\/exe$/.test(path);
}

/** SHA-256 of files by identity, so that each state of a file is read once. Bounded; the oldest entries go first. */
export class HashCache {
  readonly #hashes = new Map<string, string>();
  readonly #capacity: number;

  constructor(capacity = 100_000) {
    this.#capacity = capacity;
  }

  known(identity: FileIdentity): string | undefined {
    return this.#hashes.get(identityKey(identity));
  }

  /**
   * Hash of the file at a path. With `expected` only if it still is that very file; undefined where it is gone, another
   * one, too large, or not a regular file.
   */
  async hash(
    path: string | Buffer,
    expected?: FileIdentity,
  ): Promise<{ sha256: string; identity: FileIdentity } | undefined> {
    const cached = expected && this.known(expected);
    if (cached && expected) return { sha256: cached, identity: expected };
    try {
      await using file = await open(path, isOwnLink(path) ? OPEN_FLAGS : OPEN_FLAGS | constants.O_NOFOLLOW);
      const hashed = await this.hashOpen(file, expected);
      return hashed?.isSettled ? hashed : undefined;
    } catch {
      return undefined;
    }
  }

  /**
   * As `hash`, of a file that is open; what goes wrong while it is read is thrown. Not settled where the file was
   * written, renamed or removed meanwhile: then the hash is that of what was read, and not remembered for the file.
   */
  async hashOpen(file: FileHandle, expected?: FileIdentity) {
    const status = await file.stat({ bigint: true });
    const identity = identityOf(status);
    if (!status.isFile() || status.size > FILE_MAX_BYTES) return undefined;
    if (expected && !isSameFile(identity, expected)) return undefined;
    const known = this.known(identity);
    if (known) return { sha256: known, identity, isSettled: true };
    const hash = createHash("sha256");
    const chunk = Buffer.alloc(CHUNK_BYTES);
    for (;;) {
      const { bytesRead } = await file.read(chunk, 0, CHUNK_BYTES);
      if (bytesRead === 0) break;
      hash.update(chunk.subarray(0, bytesRead));
    }
    // A file that was written while it was read has another identity now: its hash would belong to neither state.
    const isSettled = isSameFile(identityOf(await file.stat({ bigint: true })), identity);
    const sha256 = hash.digest("hex");
    if (isSettled) this.#remember(identityKey(identity), sha256);
    return { sha256, identity, isSettled };
  }

  #remember(key: string, sha256: string): void {
    if (this.#hashes.size >= this.#capacity) {
      const oldest = this.#hashes.keys().next().value;
      if (oldest !== undefined) this.#hashes.delete(oldest);
    }
    this.#hashes.set(key, sha256);
  }
}
