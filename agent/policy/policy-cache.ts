import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";

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
  }

  #file(key: string): string {
    return join(this.#directory, `${key.replace(/[^A-Za-z0-9-]/g, "_")}.bin`);
  }
}
