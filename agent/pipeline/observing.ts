import { SECTIONS, sectionPolicy } from "#core/policy/container-policy.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import type { StatsFrame } from "../wire/frames.ts";
import type { Learner } from "./learner.ts";

/** Row of the counters that is about contacts: what is lost of them is the network section's loss. */
const CONTACTS_ROW = 6;

/** A container that sent more than one container may. */
export interface Flood {
  readonly container: WatchedContainer;
  /** Events since the report before that were counted and not told. */
  readonly throttled: bigint;
}

/** What a counter has grown by; one that is lower than before has begun anew. */
function growth(now: bigint, before: bigint): bigint {
  return now < before ? now : now - before;
}

/** Takes the kernel's counters into the spans of their containers; answers which of them flood. */
export function noteLosses(
  frame: StatsFrame,
  containerOf: (cgroupId: bigint) => WatchedContainer | undefined,
): Flood[] {
  const floods: Flood[] = [];
  for (const row of frame.rows) {
    const container = containerOf(row.cgroupId);
    if (!container) continue;
    const span = container.span(row.section as Section);
    const isContacts = row.section === CONTACTS_ROW;
    const lost = growth(row.lost, span.kernelLost);
    container.span(isContacts ? Section.NETWORK : (row.section as Section)).lost += lost;
    span.kernelLost = row.lost;
    const throttled = growth(row.throttled, span.throttled);
    if (throttled > 0n) floods.push({ container, throttled });
    span.throttled = row.throttled;
  }
  return floods;
}

/** Reports what was observed of each section. Time under a rule that leaves a section out is not time to learn in. */
export function flushSpans(container: WatchedContainer, learner: Learner, nowMs: number): void {
  for (const section of SECTIONS) {
    const policy = container.use && sectionPolicy(container.use.policy, section);
    const span = container.span(section);
    const isObserved = policy?.hasRule && policy.effect !== Effect.DISABLE && container.observed.has(section);
    if (isObserved) learner.flush(container, section);
    else if (span.beginMs > 0) span.beginMs = nowMs;
  }
}

/** True while the model learns system calls: then each unit of time is told anew which were used in it. */
export function learnsSyscalls({ use }: WatchedContainer): boolean {
  const policy = use?.policy.syscall;
  return policy?.hasRule === true && policy.effect !== Effect.DISABLE && policy.state !== LearningState.ACTIVE;
}
