import { createHash } from "node:crypto";
import { closeSync, constants, fstatSync, openSync, readdirSync, readlinkSync, readSync, realpathSync } from "node:fs";
import { compilePattern, isPattern } from "#core/matching/pattern.ts";
import { escapeBytes } from "#core/text/escape.ts";
import { join, resolveInRootSync } from "../content/resolve.ts";

/** A regular file of an image, with as much of its beginning as was asked for. */
export interface ImageFile {
  /** Real path inside the image, in escaped form. */
  readonly path: string;
  readonly bytes: Buffer;
  readonly size: number;
  readonly isExecutable: boolean;
}

/** What an image's author puts in a path's place must neither be waited for nor lead out. */
const FLAGS = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY | constants.O_NOFOLLOW;
const GLOB_MAX = 200;
const HASH_MAX_BYTES = 512 * 1024 * 1024;
const CHUNK_BYTES = 1024 * 1024;

/** Reads an image's root file system, never leaving it. For a thread that may wait. */
export class ImageFiles {
  readonly #root: string;
  /** Where the root really lies, without a slash at its end. */
  readonly #real: string;
  readonly #hashes = new Map<string, string>();

  constructor(root: string) {
    this.#root = root;
    const real = realpathSync(root);
    this.#real = real === "/" ? "" : real;
  }

  /** Real path of what lies at a path; undefined for nothing. */
  realPath(path: string): string | undefined {
    const real = resolveInRootSync(this.#root, path);
    return real && (escapeBytes(real) || "/");
  }

  /** A regular file, with its first bytes; undefined where there is none. */
  read(path: string, maxBytes: number): ImageFile | undefined {
    const real = resolveInRootSync(this.#root, path);
    if (!real) return undefined;
    return this.#open(real, (descriptor, size, mode) => {
      const bytes = Buffer.alloc(Math.min(size, maxBytes));
      const read = readSync(descriptor, bytes, 0, bytes.length, 0);
      return { path: escapeBytes(real), bytes: bytes.subarray(0, read), size, isExecutable: (mode & 0o111) !== 0 };
    });
  }

  /** Reads parts of a regular file; nothing where it cannot be read. */
  readerOf(path: string): (at: number, length: number) => Buffer {
    const real = resolveInRootSync(this.#root, path);
    return (at, length) => {
      const found =
        real &&
        this.#open(real, (descriptor, size) => {
          const bytes = Buffer.alloc(Math.max(0, Math.min(length, size - at)));
          return bytes.subarray(0, readSync(descriptor, bytes, 0, bytes.length, at));
        });
      return found || Buffer.alloc(0);
    };
  }

  /** SHA-256 of a regular file; undefined where it cannot be read or is too large. */
  sha256(path: string): string | undefined {
    const known = this.#hashes.get(path);
    if (known !== undefined) return known;
    const real = resolveInRootSync(this.#root, path);
    const hash =
      real && this.#open(real, (descriptor, size) => (size > HASH_MAX_BYTES ? undefined : hashOf(descriptor)));
    if (hash) this.#hashes.set(path, hash);
    return hash || undefined;
  }

  /** Paths that a shell's pattern names, in order; none where it names nothing. Stars stand for parts of one segment. */
  glob(pattern: string): string[] {
    let found = [""];
    for (const segment of pattern.split("/").filter((part) => part !== "")) {
      found = found.flatMap((folder) => this.#within(folder, segment)).slice(0, GLOB_MAX);
    }
    return found.filter((path) => path !== "" && this.realPath(path) !== undefined);
  }

  #within(folder: string, segment: string): string[] {
    if (!isPattern(segment)) return [`${folder}/${segment}`];
    const { matches } = compilePattern(segment);
    return this.list(folder === "" ? "/" : folder)
      .filter((name) => !name.startsWith(".") && matches(name))
      .map((name) => `${folder}/${name}`);
  }

  /** Names in a folder, sorted; none where there is no such folder. */
  list(folder: string): string[] {
    const real = resolveInRootSync(this.#root, folder);
    if (!real) return [];
    try {
      const names = readdirSync(Buffer.concat([Buffer.from(this.#root), real, Buffer.from("/")]), {
        encoding: "buffer",
      });
      return names.map((name) => escapeBytes(name)).sort();
    } catch {
      return [];
    }
  }

  #open<T>(real: Buffer, use: (descriptor: number, size: number, mode: number) => T | undefined): T | undefined {
    let descriptor: number;
    try {
      descriptor = openSync(Buffer.concat([join(this.#root, []), real]), FLAGS);
    } catch {
      return undefined;
    }
    try {
      // A folder on the way may have become a link since it was looked at.
      const opened = readlinkSync(`/proc/self/fd/${descriptor}`, { encoding: "buffer" });
      if (!opened.equals(Buffer.concat([Buffer.from(this.#real), real]))) return undefined;
      const status = fstatSync(descriptor);
      return status.isFile() ? use(descriptor, status.size, status.mode) : undefined;
    } catch {
      return undefined;
    } finally {
      closeSync(descriptor);
    }
  }
}

function hashOf(descriptor: number): string {
  const hash = createHash("sha256");
  const chunk = Buffer.alloc(CHUNK_BYTES);
  for (let at = 0; ; ) {
    const read = readSync(descriptor, chunk, 0, CHUNK_BYTES, at);
    if (read === 0) return hash.digest("hex");
    hash.update(chunk.subarray(0, read));
    at += read;
  }
}
