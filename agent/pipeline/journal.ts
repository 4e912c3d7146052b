import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { journalEvent, journalKey } from "#core/model/journal.ts";
import type { Event } from "#gen/gabion/event/v1/event_pb.ts";
import { type JournalNote, JournalNoteSchema } from "#gen/gabion/model/v1/model_pb.ts";
import type { Decision, Effect, Outcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";

interface Entry {
  readonly event: Event;
  readonly outcome: Outcome;
  readonly effect: Effect;
  readonly firstMs: number;
  lastMs: number;
  count: number;
}

/** Distinct things that one container may tell between two reports; more is a flood, which is told as such elsewhere. */
const ENTRIES_MAX = 1_000;

/**
 * What happened in containers since the last report, once for all that is equal: rules are tried on it before they are
 * saved. What the kernel lets through by itself comes with the counters of its entries (`KernelHits`).
 */
export class Journal {
  readonly #clock: Clock;
  readonly #send: (note: JournalNote) => void;
  readonly #entries = new WeakMap<WatchedContainer, Map<string, Entry>>();

  constructor(clock: Clock, send: (note: JournalNote) => void) {
    this.#clock = clock;
    this.#send = send;
  }

  /** Key by which the same again is counted. */
  keyOf(event: Event, { outcome, effectApplied, isAudited }: Decision): string {
    return `${outcome} ${isAudited ? effectApplied : 0} ${journalKey(event)}`;
  }

  /** Notes an event under its key. */
  note(
    container: WatchedContainer,
    key: string,
    event: Event,
    { outcome, effectApplied, isAudited }: Decision,
    count = 1,
  ): void {
    const entries = this.#entries.get(container) ?? new Map<string, Entry>();
    this.#entries.set(container, entries);
    const now = this.#clock.now();
    const known = entries.get(key);
    if (known) {
      known.count += count;
      known.lastMs = now;
    } else if (entries.size < ENTRIES_MAX) {
      const effect = isAudited ? effectApplied : 0;
      entries.set(key, { event: journalEvent(event), outcome, effect, firstMs: now, lastMs: now, count });
    }
  }

  /** Sends what was noted of a container. */
  flush(container: WatchedContainer): void {
    const entries = this.#entries.get(container);
    if (!entries) return;
    this.#entries.delete(container);
    for (const { event, outcome, effect, firstMs, lastMs, count } of entries.values()) {
      this.#send(
        create(JournalNoteSchema, {
          modelKey: container.message.modelKey,
          containerId: container.id,
          event,
          outcome,
          effect,
          count: BigInt(count),
          firstTime: timestampFromMs(firstMs),
          lastTime: timestampFromMs(lastMs),
        }),
      );
    }
  }
}
