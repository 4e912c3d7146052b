import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { DnsDetector } from "#core/detect/dns.ts";
import { PortScanDetector } from "#core/detect/port-scan.ts";
import type { DetectorSettings } from "#core/detect/settings.ts";
import type { AddressClasses } from "#core/matching/address-class.ts";
import { type Event, EventSchema, type Process, type Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { Fact } from "#gen/gabion/model/v1/model_pb.ts";
import type { Decision } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import type { SeenRoots } from "../content/mounts.ts";
import type { ActorFrame } from "../wire/frames.ts";
import { processOf } from "./actor.ts";
import type { Target } from "./conclude.ts";
import type { WallClock } from "./exec-event.ts";
import type { ProcessTable } from "./process-table.ts";

/** An event with what policy says of it and what it teaches. */
export interface Judged {
  readonly section: Section;
  readonly event: Event;
  readonly decision: Decision;
  readonly facts: readonly Fact[];
  /** A second judgement of the same frame: what the kernel did was about the first. */
  readonly isCompanion?: boolean;
  /** What the kernel did about a companion; without it, nothing. */
  readonly outcome?: number;
  /** What the kernel did may have been for the companion only: it was for this one too where that asks for as much. */
  readonly sharesOutcome?: boolean;
  /** What makes two audits equal. */
  readonly object: readonly unknown[];
  /** What became of the act, in words, for each way that it may have gone. */
  readonly act: {
    readonly killed: string;
    readonly denied: string;
    readonly happened: string;
    readonly target?: Target;
  };
}

/** An act that only could have happened. */
export const NOTHING = { killed: "", denied: "", happened: "" } as const;

interface Detectors {
  readonly scan: PortScanDetector;
  readonly dns: DnsDetector;
}

type Kind = MessageInitShape<typeof EventSchema>["kind"];

/** Makes events of frames, and keeps what the detectors of each container have seen. */
export class EventMaker {
  readonly processes: ProcessTable;
  readonly roots: SeenRoots;
  readonly addressClasses: AddressClasses;
  readonly #settings: DetectorSettings;
  readonly #bootId: string;
  readonly #wallClock: WallClock;
  readonly #detectors = new WeakMap<WatchedContainer, Detectors>();

  constructor(options: {
    processes: ProcessTable;
    bootId: string;
    wallClock: WallClock;
    roots: SeenRoots;
    detectors: DetectorSettings;
    addressClasses: AddressClasses;
  }) {
    this.processes = options.processes;
    this.addressClasses = options.addressClasses;
    this.#settings = options.detectors;
    this.roots = options.roots;
    this.#bootId = options.bootId;
    this.#wallClock = options.wallClock;
  }

  detectorsOf(container: WatchedContainer): Detectors {
    const known = this.#detectors.get(container);
    if (known) return known;
    const { scan, dns } = this.#settings;
    const fresh = { scan: new PortScanDetector(scan), dns: new DnsDetector(dns) };
    this.#detectors.set(container, fresh);
    return fresh;
  }

  event(container: WatchedContainer, ktimeNs: bigint, kind: Kind, actor?: Process, ancestors: Process[] = []): Event {
    return create(EventSchema, {
      eventTime: timestampFromMs(this.#wallClock.toMs(ktimeNs)),
      ktimeNs,
      containerId: container.id,
      ...(actor ? { actor } : {}),
      ancestors,
      ...(kind ? { kind } : {}),
    });
  }

  /** With who did it, where the kernel could tell. */
  eventOf(container: WatchedContainer, { actor, ktimeNs }: ActorFrame, kind: Kind): Event {
    if (actor.pid === 0) return this.event(container, ktimeNs, kind);
    const process = processOf(actor, this.processes, this.#bootId, this.#wallClock);
    const ancestors = this.processes.ancestors(actor.parentPid, actor.parentStartNs);
    return this.event(container, ktimeNs, kind, process, ancestors);
  }
}
