import { create } from "@bufbuild/protobuf";
import { toProcessEvent } from "#core/policy/process-event.ts";
import { evaluateProcess } from "#core/policy/process-policy.ts";
import { escapeBytes } from "#core/text/escape.ts";
import { ContentState, type Event, type ProcessExec, Section } from "#gen/gabion/event/v1/event_pb.ts";
import { type Fact, FactSchema, ProcessFactSchema } from "#gen/gabion/model/v1/model_pb.ts";
import { type Decision, Outcome as PolicyOutcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import { contentOf, fullPathOf, scriptContentOf } from "../content/content-state.ts";
import { identityKey } from "../content/file-identity.ts";
import type { HashCache } from "../content/hash-cache.ts";
import type { SlotTable } from "../enforce/slot-table.ts";
import type { KnownFile } from "../wire/encode.ts";
import type { ExecFrame } from "../wire/frames.ts";
import { ExecFlag } from "../wire/layout.ts";
import { type Conclusion, isActedInKernel } from "./conclude.ts";
import { type Content, invokedName, toExecEvent, type WallClock } from "./exec-event.ts";
import type { ProcessTable } from "./process-table.ts";
import { streamOf } from "./stream.ts";

export interface ExecPipelineDependencies {
  readonly bootId: string;
  readonly cache: HashCache;
  readonly processes: ProcessTable;
  readonly slots: SlotTable;
  readonly conclusion: Conclusion;
  readonly wallClock: WallClock;
  readonly putFile: (container: WatchedContainer, file: KnownFile) => void;
}

const FILES_PER_CONTAINER_MAX = 10_000;

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

  constructor(deps: ExecPipelineDependencies) {
    this.#deps = deps;
  }

  async handle(container: WatchedContainer, frame: ExecFrame): Promise<void> {
    const event = await this.#describe(container, frame);
    const exec = event.kind.value as ProcessExec;
    if (exec.process) this.#deps.processes.add(exec.process, frame.startNs, frame.parentPid);
    const use = this.#deps.slots.of(frame.slot) ?? container.use;
    if (!use) return;
    const decision = evaluateProcess(use.policy.process, toProcessEvent(exec));
    this.#deps.conclusion.learn(container, [toFact(exec)], decision, use, Section.PROCESS);
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
    this.#deps.conclusion.audit(container, event, decision, use, Section.PROCESS, delivered, [path, name, sha256, uid]);
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
      stream: streamOf(container, frame),
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
