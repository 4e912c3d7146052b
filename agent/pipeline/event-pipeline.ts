import type { FileHandle } from "node:fs/promises";
import type { DetectorSettings } from "#core/detect/settings.ts";
import type { AddressClasses } from "#core/matching/address-class.ts";
import { journalEvent } from "#core/model/journal.ts";
import { sectionPolicy } from "#core/policy/container-policy.ts";
import { withCustomRules } from "#core/policy/custom-rules.ts";
import { isNamed } from "#core/policy/file-policy.ts";
import { escapeBytes } from "#core/text/escape.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { type Decision, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import type { HashCache } from "../content/hash-cache.ts";
import { SeenRoots } from "../content/mounts.ts";
import type { SlotTable, SlotUse } from "../enforce/slot-table.ts";
import type { ContainerFrame, EventHead, ExecFrame, WrittenFrame } from "../wire/frames.ts";
import { Outcome } from "../wire/layout.ts";
import { type Conclusion, isActedInKernel } from "./conclude.ts";
import type { WallClock } from "./exec-event.ts";
import { judgeDns } from "./judge-dns.ts";
import { judgeFile, judgeName, judgeRedirect, judgeRefused, judgeSyscall } from "./judge-host.ts";
import { judgeConnect, judgeContact, judgeListen, judgeSocket } from "./judge-network.ts";
import { judgeWritten } from "./judge-written.ts";
import { EventMaker, type Judged } from "./judged.ts";
import type { ProcessTable } from "./process-table.ts";
import { Repeats } from "./repeats.ts";
import { ToldNames } from "./told-names.ts";

/** A change is told of within this time before its name is seen, in ms. */
const TOLD_BEFORE_MS = 2_000;

export interface EventPipelineDependencies {
  readonly bootId: string;
  readonly processes: ProcessTable;
  readonly slots: SlotTable;
  readonly conclusion: Conclusion;
  readonly wallClock: WallClock;
  readonly cache: HashCache;
  /** Where cgroup v2 is mounted. */
  readonly cgroupMount: string;
  readonly detectors: DetectorSettings;
  readonly addressClasses: AddressClasses;
  readonly clock: Clock;
}

/** Everything that happens in a container but execs. */
export type OtherFrame = Exclude<ContainerFrame, ExecFrame | WrittenFrame>;

/** Takes what happens in containers, execs apart, from frame to decision, and does what is left to do. */
export class EventPipeline {
  readonly #deps: EventPipelineDependencies;
  readonly #maker: EventMaker;
  readonly #repeats = new Repeats();
  readonly #toldNames = new ToldNames();

  constructor(deps: EventPipelineDependencies) {
    this.#deps = deps;
    this.#maker = new EventMaker({ ...deps, roots: new SeenRoots(deps.cgroupMount) });
  }

  async handle(container: WatchedContainer, frame: OtherFrame): Promise<void> {
    const use = this.#deps.slots.of(frame.slot) ?? container.use;
    if (!use) return;
    // A custom rule may look at anything of an event: none of those that it asks about is taken for a repeat.
    const mayRepeat = !use.policy.custom.sections.has(sectionOfFrame(frame.kind));
    const repeat = mayRepeat ? this.#repeats.find(container, frame) : undefined;
    if (repeat) {
      // Paths of what may repeat itself are real ones.
      if (frame.kind === "file") this.#noteNames(container, use, [escapeBytes(frame.path)]);
      this.#deps.conclusion.countAgain(container, repeat, use);
      return;
    }
    const all = await this.#judge(container, frame, use);
    for (const judged of all) {
      const { kind } = judged.event;
      if (kind.case === "fileChange") this.#noteNames(container, use, [kind.value.path, kind.value.newPath]);
      await this.#conclude(container, frame, judged, use);
    }
    const [only] = all;
    const isQuiet = mayRepeat && all.length === 1 && only && !only.decision.isAudited && !only.decision.isHeld;
    if (!isQuiet) return;
    const factIds = only.decision.isLearned
      ? only.facts.map((fact) => this.#deps.conclusion.idOf(container, fact))
      : [];
    const told = this.#deps.conclusion.told(journalEvent(only.event), only.decision);
    this.#repeats.remember(container, frame, { section: only.section, factIds, told });
  }

  /** Looks into a file that was written; false where what is in it could not be told. */
  async handleWritten(container: WatchedContainer, frame: WrittenFrame, file: FileHandle): Promise<boolean> {
    const use = this.#deps.slots.of(frame.slot) ?? container.use;
    if (!use) return false;
    const all = await judgeWritten(this.#maker, container, frame, use, { cache: this.#deps.cache, file });
    for (const judged of all ?? []) await this.#conclude(container, frame, judged, use);
    return all !== undefined;
  }

  /** Looks into a name that appeared or went at a moment, where no change of it was told since a little before. */
  async handleName(container: WatchedContainer, path: string, atMs: number): Promise<void> {
    const { use } = container;
    if (!use || this.#toldNames.has(container, path, atMs - TOLD_BEFORE_MS)) return;
    const judged = await judgeName(this.#maker, container, path, use);
    if (judged) await this.#conclude(container, { outcome: Outcome.ASKED }, judged, use);
  }

  #noteNames(container: WatchedContainer, { policy }: SlotUse, paths: readonly string[]): void {
    const named = paths.filter((path) => path !== "" && isNamed(policy.filesystem, path));
    for (const path of named) this.#toldNames.note(container, path, this.#deps.clock.now());
  }

  async #conclude(
    container: WatchedContainer,
    frame: Pick<EventHead, "outcome">,
    judged: Judged,
    use: SlotUse,
  ): Promise<void> {
    const { conclusion } = this.#deps;
    const { section, event, facts, object, act } = judged;
    const of = { event, container: container.message };
    const decision = judged.isCompanion
      ? judged.decision
      : withCustomRules(use.policy.custom, sectionPolicy(use.policy, section), of, () => judged.decision);
    const outcome = outcomeOf(judged, decision, frame.outcome);
    // What was refused for another's sake reached nothing that could be learned.
    if (judged.sharesOutcome && isActedInKernel(frame.outcome)) Object.assign(decision, { isLearned: false });
    conclusion.learn(container, facts, decision);
    conclusion.note(container, conclusion.told(event, decision), use, section);
    if (!decision.isAudited && !isActedInKernel(outcome)) return;
    const delivered = await conclusion.deliver(container, outcome, decision, act);
    conclusion.audit(container, event, decision, use, section, delivered, object);
  }

  async #judge(container: WatchedContainer, frame: OtherFrame, use: SlotUse): Promise<Judged[]> {
    const m = this.#maker;
    switch (frame.kind) {
      case "connect":
        return judgeConnect(m, container, frame, use);
      case "listen":
        return [judgeListen(m, container, frame, use)];
      case "socket":
        return [judgeSocket(m, container, frame, use)];
      case "dns":
        return judgeDns(m, container, frame, use);
      case "file":
        return judgeFile(m, container, frame, use);
      case "syscall":
        return [judgeSyscall(m, container, frame, use)];
      case "redirect":
        return [judgeRedirect(m, container, frame, use)];
      case "contact":
        return judgeContact(m, container, frame, use);
      case "refused":
        return [judgeRefused(m, container, frame, use)];
    }
  }
}

/** What the kernel did for a judgement, of what it did for the frame. */
function outcomeOf({ isCompanion, outcome, sharesOutcome }: Judged, decision: Decision, ofFrame: number): number {
  if (isCompanion) return outcome ?? Outcome.ASKED;
  return sharesOutcome && decision.effectApplied < Effect.PREVENT ? Outcome.ASKED : ofFrame;
}

/** The section that an event's loss is counted in. */
export function sectionOfFrame(kind: ContainerFrame["kind"]): Section {
  switch (kind) {
    case "connect":
    case "listen":
    case "socket":
    case "contact":
      return Section.NETWORK;
    case "dns":
      return Section.DNS;
    case "file":
    case "refused":
    case "written":
      return Section.FILESYSTEM;
    case "syscall":
      return Section.SYSCALL;
    default:
      return Section.PROCESS;
  }
}
