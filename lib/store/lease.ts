import { randomUUID } from "node:crypto";
import type { Clock } from "../flow/clock.ts";
import { type Collection, type CollectionSpec, StaleRevisionError } from "./port.ts";
import { jsonCodec } from "./proto-codec.ts";

interface LeaseRecord {
  readonly holder: string;
  readonly untilMs: number;
}

export const LEASES: CollectionSpec<LeaseRecord> = { name: "leases", codec: jsonCodec(() => ({})), fields: {} };

/**
 * Work that one of several replicas does at a time. A lease saves work twice done and guards nothing: clocks differ, so what
 * is done under it must be harmless when two do it.
 */
export class Lease {
  readonly #collection: Collection<LeaseRecord>;
  readonly #name: string;
  readonly #clock: Clock;
  readonly #holder = randomUUID();
  #untilMs = 0;

  constructor(collection: Collection<LeaseRecord>, name: string, clock: Clock) {
    this.#collection = collection;
    this.#name = name;
    this.#clock = clock;
  }

  /** Takes the lease, or keeps it; renewed when half of it is over. False while somebody else has it. */
  async hold(ms: number): Promise<boolean> {
    const now = this.#clock.now();
    const left = this.#untilMs - now;
    if (left > ms / 2 && left <= ms) return true;
    const value = { holder: this.#holder, untilMs: now + ms };
    const stored = await this.#collection.get(this.#name);
    // One that lasts longer than any is given for was written by a clock that was ahead.
    const isHeld = stored !== undefined && stored.value.untilMs > now && stored.value.untilMs <= now + 2 * ms;
    if (isHeld && stored.value.holder !== this.#holder) return false;
    try {
      if (stored) await this.#collection.replace(this.#name, value, stored.revision);
      else if ((await this.#collection.insertMissing([{ id: this.#name, value }])) === 0) return false;
    } catch (error) {
      if (error instanceof StaleRevisionError) return false;
      throw error;
    }
    this.#untilMs = value.untilMs;
    return true;
  }

  /** Lets another replica have it at once. */
  async release(): Promise<void> {
    const stored = await this.#collection.get(this.#name);
    if (stored?.value.holder === this.#holder)
      await this.#collection.delete(this.#name, stored.revision).catch(() => {});
    this.#untilMs = 0;
  }
}
