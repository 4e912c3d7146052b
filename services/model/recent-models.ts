import type { Stored } from "#lib/store/port.ts";
import type { ModelRecord } from "./record.ts";

/** Bytes of models kept, by a rough measure. */
const MAX_BYTES = 64 * 1024 * 1024;
/** A record of 300 items takes about 1 MB, and the policy in it 20 KB: `tools/bench/models.ts` had 1.8 GB with too low a number. */
const WEIGHT = 48;
const EMPTY_BYTES = 4_096;

function weightOf({ value }: Stored<ModelRecord>): number {
  return EMPTY_BYTES + WEIGHT * value.policy.length;
}

/**
 * Models as they were written last, so that a busy one is not read anew for each batch. Another replica may have changed one
 * since: then the write fails for its revision, and it is read.
 */
export class RecentModels {
  readonly #models = new Map<string, Stored<ModelRecord>>();
  #bytes = 0;

  get(modelKey: string): Stored<ModelRecord> | undefined {
    return this.#models.get(modelKey);
  }

  put(model: Stored<ModelRecord>): void {
    this.forget(model.id);
    this.#models.set(model.id, model);
    this.#bytes += weightOf(model);
    for (const [oldest] of this.#models) {
      if (this.#bytes <= MAX_BYTES) return;
      this.forget(oldest);
    }
  }

  forget(modelKey: string): void {
    const known = this.#models.get(modelKey);
    if (known) this.#bytes -= weightOf(known);
    this.#models.delete(modelKey);
  }
}
