import type { Event, Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { Decision } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import type { ContainerFrame } from "../wire/frames.ts";
import { DnsFlag, FileFlag, Outcome } from "../wire/layout.ts";

/** What happened and what was said of it, with the key under which the journal has it. */
export interface Told {
  readonly key: string;
  readonly event: Event;
  readonly decision: Decision;
}

/** What an event came to that was neither audited nor acted upon: facts that count again. */
export interface Repeat {
  readonly section: Section;
  readonly factIds: readonly string[];
  readonly told?: Told;
}

/** Objects remembered for one container; when full, all are forgotten. */
const KEPT_MAX = 8_192;

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1");
}

/**
 * Everything of an event that its judgement depends on, as one text; undefined where an event is to be judged each time:
 * execs, acts of the kernel, and paths as typed, which may lead elsewhere the next time.
 */
function keyOf(frame: ContainerFrame): string | undefined {
  if (frame.outcome !== Outcome.ASKED) return undefined;
  switch (frame.kind) {
    case "connect": {
      const { slot, transport, port, flags, address, domain, actor } = frame;
      return `c${slot} ${transport} ${port} ${flags} ${latin1(address)} ${latin1(domain)} ${latin1(actor.exe)}`;
    }
    case "listen":
      return `l${frame.slot} ${frame.transport} ${frame.port} ${frame.flags} ${latin1(frame.actor.exe)}`;
    case "dns": {
      const isPlain = (frame.flags & (DnsFlag.ANSWER | DnsFlag.MALFORMED)) === 0;
      return isPlain ? `d${frame.slot} ${frame.recordType} ${latin1(frame.name)}` : undefined;
    }
    case "file": {
      if ((frame.flags & (FileFlag.TYPED | FileFlag.EXECUTABLE | FileFlag.PROC)) !== 0) return undefined;
      return `f${frame.slot} ${frame.operation} ${frame.flags} ${latin1(frame.path)} ${latin1(frame.actor.exe)}`;
    }
    default:
      return undefined;
  }
}

/** Remembers what events came to, so that the same again is only counted: a busy container repeats itself. */
export class Repeats {
  readonly #known = new WeakMap<WatchedContainer, Map<string, Repeat>>();

  find(container: WatchedContainer, frame: ContainerFrame): Repeat | undefined {
    const key = keyOf(frame);
    return key === undefined ? undefined : this.#known.get(container)?.get(key);
  }

  remember(container: WatchedContainer, frame: ContainerFrame, repeat: Repeat): void {
    const key = keyOf(frame);
    if (key === undefined) return;
    const known = this.#known.get(container) ?? new Map<string, Repeat>();
    this.#known.set(container, known);
    if (known.size >= KEPT_MAX) known.clear();
    known.set(key, repeat);
  }
}
