import { create } from "@bufbuild/protobuf";
import { toProcessEvent } from "#core/policy/process-event.ts";
import { evaluateProcess } from "#core/policy/process-policy.ts";
import { escapeBytes } from "#core/text/escape.ts";
import { type Audit, AuditKind, AuditSchema } from "#gen/gabion/audit/v1/audit_pb.ts";
import { ContentState, type Event, type ProcessExec, Section } from "#gen/gabion/event/v1/event_pb.ts";
import { type Fact, FactSchema, LearningState, ProcessFactSchema } from "#gen/gabion/model/v1/model_pb.ts";
import { type Decision, Delivery, Effect, Outcome as PolicyOutcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import { contentOf, fullPathOf, scriptContentOf } from "../content/content-state.ts";
import { identityKey } from "../content/file-identity.ts";
import type { HashCache } from "../content/hash-cache.ts";
import type { SlotTable, SlotUse } from "../enforce/slot-table.ts";
import { killProcess, type StopResult } from "../enforce/stop.ts";
import type { KnownFile } from "../wire/encode.ts";
import type { ExecFrame } from "../wire/frames.ts";
import { ExecFlag, Outcome } from "../wire/layout.ts";
import type { AuditDraft, AuditWriter } from "./audit-writer.ts";
import { type Content, invokedName, toExecEvent, type WallClock } from "./exec-event.ts";
import type { Learner } from "./learner.ts";
import type { ProcessTable } from "./process-table.ts";

export interface ExecPipelineDependencies {
  readonly bootId: string;
  readonly cache: HashCache;
  readonly processes: ProcessTable;
  readonly slots: SlotTable;
  readonly learner: Learner;
  readonly audits: AuditWriter;
  readonly wallClock: WallClock;
  readonly intelVersion: () => string;
  readonly putFile: (container: WatchedContainer, file: KnownFile) => void;
  readonly stop: (container: WatchedContainer) => Promise<StopResult>;
}

/** How the effect reached the act, with a note for people. */
interface Delivered {
  readonly delivery: Delivery;
  readonly note: string;
}

const FILES_PER_CONTAINER_MAX = 10_000;

const KINDS: Partial<Record<PolicyOutcome, AuditKind>> = {
  [PolicyOutcome.DENIAL]: AuditKind.DENIAL,
  [PolicyOutcome.DETECTION]: AuditKind.DETECTION,
};

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

function isKilled(frame: ExecFrame): boolean {
  return frame.outcome === Outcome.KILLED || frame.outcome === Outcome.KILLED_CONTAINER;
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
    const decision = evaluateProcess(use.policy, toProcessEvent(exec));
    this.#learn(container, exec, decision, use);
    this.#remember(container, frame, exec, decision);
    if (!decision.isAudited && !isKilled(frame)) return;
    const delivered = await this.#deliver(container, frame, decision);
    this.#audit(container, event, decision, use, delivered);
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
      ...(fullPath === undefined ? {} : { fullPath }),
    });
  }

  #learn(container: WatchedContainer, exec: ProcessExec, decision: Decision, use: SlotUse): void {
    if (!decision.isLearned && !decision.isHeld) return;
    const isDeviation = use.modelState === LearningState.DRY_RUN && decision.outcome === PolicyOutcome.DEVIATION;
    this.#deps.learner.observe(container, toFact(exec), {
      isDeviation,
      isHeld: decision.isHeld,
      detector: decision.detector,
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

  async #deliver(container: WatchedContainer, frame: ExecFrame, decision: Decision): Promise<Delivered> {
    if (isKilled(frame)) return this.#deliveredInKernel(container, frame);
    const { effectApplied } = decision;
    if (effectApplied === Effect.BLOCK) {
      const { isStopped, note } = await this.#deps.stop(container);
      return { delivery: isStopped ? Delivery.AFTER_THE_FACT : Delivery.NOT_POSSIBLE, note };
    }
    if (effectApplied === Effect.PREVENT) {
      const wasThere = killProcess(frame.pid, frame.startNs);
      const note = wasThere ? "the process was killed after it had begun" : "the process had ended by itself";
      return { delivery: wasThere ? Delivery.AFTER_THE_FACT : Delivery.NOT_POSSIBLE, note };
    }
    return { delivery: Delivery.AUDITED, note: "" };
  }

  async #deliveredInKernel(container: WatchedContainer, frame: ExecFrame): Promise<Delivered> {
    const killed = "killed before its first instruction";
    if (frame.outcome === Outcome.KILLED_CONTAINER) {
      const { note } = await this.#deps.stop(container);
      return { delivery: Delivery.KILLED, note: `${killed}; ${note}` };
    }
    const isFirst = (frame.flags & ExecFlag.FIRST_PROCESS) !== 0;
    const note = isFirst ? `${killed}; it was the container's first process, so the container ended` : killed;
    return { delivery: Delivery.KILLED, note };
  }

  #audit(container: WatchedContainer, event: Event, decision: Decision, use: SlotUse, delivered: Delivered): void {
    const draft: AuditDraft = create(AuditSchema, {
      container: container.message,
      section: Section.PROCESS,
      kind: KINDS[decision.outcome] ?? AuditKind.DEVIATION,
      event,
      decision,
      delivery: delivered.delivery,
      deliveryNote: delivered.note,
      ruleId: use.rule?.ruleId ?? "",
      ruleName: use.rule?.name ?? "",
      ruleRevision: use.rule?.revision ?? 0n,
      rulesetRevision: use.rulesetRevision,
      modelKey: use.modelKey,
      modelRevision: use.modelRevision,
      modelState: use.modelState,
      ...(use.completeness ? { completeness: use.completeness } : {}),
      intelVersion: this.#deps.intelVersion(),
      message: decision.explanation?.message ?? "",
      ...(event.eventTime ? { firstTime: event.eventTime } : {}),
    } satisfies Partial<Audit> as Parameters<typeof create<typeof AuditSchema>>[1]);
    this.#deps.audits.write(draft, this.#foldKey(container, event, decision, use, delivered));
  }

  #foldKey(container: WatchedContainer, event: Event, decision: Decision, use: SlotUse, delivered: Delivered): string {
    const process = event.actor;
    const parts = [container.id, use.fingerprint, decision.outcome, delivered.delivery, delivered.note];
    return JSON.stringify([...parts, process?.path, process?.name, process?.sha256, process?.uid]);
  }
}
