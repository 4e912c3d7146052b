import { setTimeout as sleep } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import { withCustomRules } from "#core/policy/custom-rules.ts";
import { toProcessEvent } from "#core/policy/process-event.ts";
import { evaluateProcess, evaluateRedirect } from "#core/policy/process-policy.ts";
import { escapeBytes } from "#core/text/escape.ts";
import { ContentState, type Event, type ProcessExec, Section } from "#gen/gabion/event/v1/event_pb.ts";
import { type Fact, FactSchema, ProcessFactSchema } from "#gen/gabion/model/v1/model_pb.ts";
import { type Decision, Effect, Outcome as PolicyOutcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import { startTicks } from "../containers/runc.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import { contentOf, fullPathOf, scriptContentOf } from "../content/content-state.ts";
import { identityKey } from "../content/file-identity.ts";
import type { HashCache } from "../content/hash-cache.ts";
import type { SlotTable, SlotUse } from "../enforce/slot-table.ts";
import { TICK_NS } from "../enforce/stop.ts";
import type { KnownFile } from "../wire/encode.ts";
import type { ExecFrame } from "../wire/frames.ts";
import { ExecFlag, Outcome } from "../wire/layout.ts";
import { type Conclusion, isActedInKernel } from "./conclude.ts";
import { type Content, invokedName, toExecEvent, type WallClock } from "./exec-event.ts";
import type { ProcessTable } from "./process-table.ts";
import { isPassedShell, streamOf } from "./stream.ts";

export interface ExecPipelineDependencies {
  readonly bootId: string;
  /** Where cgroup v2 is mounted. */
  readonly cgroupMount: string;
  readonly cache: HashCache;
  readonly processes: ProcessTable;
  readonly slots: SlotTable;
  readonly conclusion: Conclusion;
  readonly wallClock: WallClock;
  readonly putFile: (container: WatchedContainer, file: KnownFile) => void;
}

const FILES_PER_CONTAINER_MAX = 10_000;
/** Shells that are looked at again at the same time, and when. */
const LOOKS_MAX = 256;
const LOOKS_MS = [300, 1_000, 4_000] as const;

function toFact({ process, ancestors }: ProcessExec): Fact {
  const value = create(ProcessFactSchema, {
    path: process?.path ?? "",
    name: process?.name ?? "",
    contentState: process?.contentState ?? ContentState.UNKNOWN,
    sha256: process?.contentState === ContentState.UNCHANGED ? "" : (process?.sha256 ?? ""),
    parentPath: ancestors[0]?.path ?? "",
  });
  return create(FactSchema, { kind: { case: "process", value } });
}

/** Takes execs from frame to decision, and does what the decision asks that the kernel has not done. */
export class ExecPipeline {
  readonly #deps: ExecPipelineDependencies;
  #looks = 0;

  constructor(deps: ExecPipelineDependencies) {
    this.#deps = deps;
  }

  async handle(container: WatchedContainer, frame: ExecFrame): Promise<void> {
    const event = await this.#describe(container, frame);
    const exec = event.kind.value as ProcessExec;
    if (exec.process) this.#deps.processes.add(exec.process, frame.startNs, frame.parentPid);
    const use = this.#deps.slots.of(frame.slot) ?? container.use;
    if (!use) return;
    const decision = withCustomRules(
      use.policy.custom,
      use.policy.process,
      { event, container: container.message },
      () => evaluateProcess(use.policy.process, toProcessEvent(exec)),
    );
    if (exec.stream === "") this.#lookAgain(container, frame, event, use);
    this.#deps.conclusion.learn(container, [toFact(exec)], decision);
    this.#deps.conclusion.note(container, this.#deps.conclusion.told(event, decision), use, Section.PROCESS);
    this.#remember(container, frame, exec, decision);
    if (!decision.isAudited && !isActedInKernel(frame.outcome)) return;
    const killed = "killed before its first instruction";
    const isFirst = (frame.flags & ExecFlag.FIRST_PROCESS) !== 0;
    const delivered = await this.#deps.conclusion.deliver(container, frame.outcome, decision, {
      killed: isFirst ? `${killed}; it was the container's first process, so the container ended` : killed,
      denied: "the exec failed with EPERM",
      happened: "the program had begun",
      target: { pid: frame.pid, startNs: frame.startNs },
    });
    const { path, name, sha256, uid } = exec.process ?? {};
    const way = exec.stream.replace(/\d+/g, "");
    const object = [path, name, sha256, uid, way];
    this.#deps.conclusion.audit(container, event, decision, use, Section.PROCESS, delivered, object);
  }

  /**
   * A shell behind another program begins before that has its connection: it is looked at again while
   * it lives.
   */
  #lookAgain(container: WatchedContainer, frame: ExecFrame, event: Event, use: SlotUse): void {
    const mayPass = isPassedShell(frame) && use.policy.process.detectors.reverse_shell.effect !== Effect.DISABLE;
    if (!mayPass || this.#looks >= LOOKS_MAX) return;
    this.#looks += 1;
    const look = async (left: readonly number[]): Promise<void> => {
      const [delayMs, ...later] = left;
      if (delayMs === undefined || container.isGone) return;
      await sleep(delayMs, undefined, { ref: false });
      if (startTicks(frame.pid) !== frame.startNs / TICK_NS) return;
      const stream = await streamOf(container, frame, this.#deps.cgroupMount);
      if (stream === "") await look(later);
      else await this.#tellShell(container, frame, event, use, stream);
    };
    void look(LOOKS_MS).finally(() => {
      this.#looks -= 1;
    });
  }

  async #tellShell(
    container: WatchedContainer,
    frame: ExecFrame,
    event: Event,
    use: SlotUse,
    stream: string,
  ): Promise<void> {
    const exec = event.kind.value as ProcessExec;
    exec.stream = stream;
    const decision = evaluateRedirect(use.policy.process, toProcessEvent(exec));
    if (!decision.isAudited) return;
    const delivered = await this.#deps.conclusion.deliver(container, Outcome.ASKED, decision, {
      killed: "",
      denied: "",
      happened: "the shell had begun",
      target: { pid: frame.pid, startNs: frame.startNs },
    });
    const { path, name } = exec.process ?? {};
    this.#deps.conclusion.audit(container, event, decision, use, Section.PROCESS, delivered, ["stream", path, name]);
  }

  async #describe(container: WatchedContainer, frame: ExecFrame): Promise<Event> {
    const { bootId, cache, processes, wallClock } = this.#deps;
    const { bundle, manifest } = container.identified;
    const fullPath = (frame.flags & ExecFlag.PATH_TRUNCATED) === 0 ? undefined : fullPathOf(frame.pid);
    const path = fullPath ?? escapeBytes(frame.path);
    const context = { rootfs: bundle.rootfs, manifest, cache };
    let content: Content = await contentOf(frame, path, context);
    if ((frame.flags & ExecFlag.SCRIPT) !== 0 && content.state === ContentState.UNCHANGED) {
      content = await scriptContentOf(frame, invokedName(frame), context);
    }
    return toExecEvent(frame, {
      bootId,
      containerId: container.id,
      content,
      ancestors: processes.ancestors(frame.parentPid, frame.parentStartNs),
      wallClock,
      stream: await streamOf(container, frame, this.#deps.cgroupMount),
      ...(fullPath === undefined ? {} : { fullPath }),
    });
  }

  /** Tells the kernel what a file is that it did not know, so that it need not ask again. */
  #remember(container: WatchedContainer, frame: ExecFrame, exec: ProcessExec, decision: Decision): void {
    const { contentState, sha256 } = exec.process ?? { contentState: ContentState.UNKNOWN, sha256: "" };
    const hasNoFile = (frame.flags & (ExecFlag.MEMFD | ExecFlag.UNLINKED | ExecFlag.SCRIPT)) !== 0;
    if (frame.content !== 0n || hasNoFile || sha256 === "" || decision.outcome !== PolicyOutcome.ALLOW) return;
    if (container.files.size >= FILES_PER_CONTAINER_MAX) return;
    const content = contentState === ContentState.UNCHANGED ? "image" : sha256;
    const file = { inode: frame.inode, device: frame.device, ctimeNs: frame.ctimeNs, content };
    if (container.files.has(identityKey(file))) return;
    container.files.set(identityKey(file), file);
    this.#deps.putFile(container, file);
  }
}
