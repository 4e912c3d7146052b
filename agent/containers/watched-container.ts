import { statSync } from "node:fs";
import { join } from "node:path";
import type { Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { ModelPolicy } from "#gen/gabion/model/v1/model_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import type { SlotUse } from "../enforce/slot-table.ts";
import type { StopResult } from "../enforce/stop.ts";
import type { KnownFile } from "../wire/encode.ts";
import type { IdentifiedContainer } from "./identify.ts";

/** A control group as the kernel and the file system name it. */
export interface ControlGroup {
  readonly id: bigint;
  readonly path: string;
}

/** False where a container has ended, though its end may not have been told yet. */
export function groupExists(cgroupMount: string, { id, path }: ControlGroup): boolean {
  return statSync(join(cgroupMount, path), { bigint: true, throwIfNoEntry: false })?.ino === id;
}

/** Work for one container done one after another, bounded. */
export class Turns {
  readonly #capacity: number;
  #length = 0;
  #last: Promise<void> = Promise.resolve();

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /** Runs after everything before it; false where too much waits already. */
  add(run: () => Promise<void>, onError: (error: unknown) => void): boolean {
    if (this.#length >= this.#capacity) return false;
    this.#length += 1;
    this.#last = this.#last
      .then(run)
      .catch(onError)
      .finally(() => {
        this.#length -= 1;
      });
    return true;
  }

  idle(): Promise<void> {
    return this.#last;
  }
}

/** Events of one container that may wait for their turn. */
const EVENTS_MAX = 20_000;

/** Files of one container that may wait to be looked into. */
const CONTENTS_MAX = 1_000;

/** One section of a container since its last presence span. */
export interface SectionSpan {
  /** 0 while it is not observed. */
  beginMs: number;
  /** Events lost since, by kernel, pipe and queue together. */
  lost: bigint;
  /** Counters of the kernel as last reported. */
  kernelLost: bigint;
  throttled: bigint;
}

/** A container under watch, with the policy in force for it. */
export class WatchedContainer {
  readonly identified: IdentifiedContainer;
  readonly cgroup: ControlGroup;
  #flags: number;
  readonly events = new Turns(EVENTS_MAX);
  readonly policyTurns = new Turns(1_000);
  /** Written files that wait to be looked into: reading them must not hold up what else happens. */
  readonly contentTurns = new Turns(CONTENTS_MAX);
  /** True while the sensor tells of its written files. */
  isContentWatched = false;
  /** Until its mounts are there. */
  contentRetry: NodeJS.Timeout | undefined;
  /** Files that were made known to the kernel for this container. */
  readonly files = new Map<string, KnownFile>();
  model: ModelPolicy | undefined;
  use: SlotUse | undefined;
  isGone = false;
  /** The stop that is under way or done; undefined where there was none, or it failed. */
  stopping: Promise<StopResult> | undefined;
  /** Flags that the kernel has for its policy, and the sections that are really seen. */
  policyFlags = 0;
  observed: ReadonlySet<Section> = new Set();
  /** What the file system watch refuses in it, of what its rule asks for. */
  protection: "none" | "whole" | "partial" | "failed" = "none";
  readonly #spans = new Map<Section, SectionSpan>();

  constructor(identified: IdentifiedContainer, cgroup: ControlGroup, flags: number) {
    this.identified = identified;
    this.cgroup = cgroup;
    this.#flags = flags;
  }

  /** Takes a flag away; answers whether it was there. It counts from the next time the container is bound. */
  dropFlag(flag: number): boolean {
    const had = (this.#flags & flag) !== 0;
    this.#flags &= ~flag;
    return had;
  }

  /** Sets a flag. It counts from the next time the container is bound. */
  addFlag(flag: number): void {
    this.#flags |= flag;
  }

  /** What the kernel is told with the policy. */
  get binding(): { flags: number; device: number } {
    return { flags: this.#flags, device: this.identified.rootDevice };
  }

  /** What is observed of a section since its last presence span. */
  span(section: Section): SectionSpan {
    const known = this.#spans.get(section);
    if (known) return known;
    const fresh: SectionSpan = { beginMs: 0, lost: 0n, kernelLost: 0n, throttled: 0n };
    this.#spans.set(section, fresh);
    return fresh;
  }

  /** Nothing is observed from now on, in any section; counters of the kernel begin anew. */
  endSpans(): void {
    for (const span of this.#spans.values()) Object.assign(span, { beginMs: 0, kernelLost: 0n, throttled: 0n });
  }

  /** Until everything that has come is dealt with. */
  async idle(): Promise<void> {
    await this.events.idle();
    await this.contentTurns.idle();
  }

  get message(): Container {
    return this.identified.message;
  }

  get id(): string {
    return this.message.containerId;
  }
}
