import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** Policies kept: rule set and models. */
const FILES_MAX = 2_000;

/** Bodies of the last verified policy on disk, so that an agent that starts without its control plane enforces them. */
export class PolicyCache {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
    mkdirSync(directory, { recursive: true, mode: 0o700 });
  }

  read(key: string): Uint8Array | undefined {
    const file = this.#file(key);
    return existsSync(file) ? readFileSync(file) : undefined;
  }

  write(key: string, body: Uint8Array): void {
    const file = this.#file(key);
    writeFileSync(`${file}.new`, body, { mode: 0o600 });
    renameSync(`${file}.new`, file);
    this.#sweep();
  }

  /** Models come and go: the oldest files go when there are too many. */
  #sweep(): void {
    const files = readdirSync(this.#directory);
    if (files.length <= FILES_MAX) return;
    const age = (name: string) => statSync(join(this.#directory, name), { throwIfNoEntry: false })?.mtimeMs ?? 0;
    const oldest = files.map((name) => ({ name, at: age(name) })).sort((a, b) => a.at - b.at);
    for (const { name } of oldest.slice(0, files.length - FILES_MAX))
      rmSync(join(this.#directory, name), { force: true });
  }

  #file(key: string): string {
    return join(this.#directory, `${key.replace(/[^A-Za-z0-9-]/g, "_")}.bin`);
  }
}
