import { create } from "@bufbuild/protobuf";
import { sectionPolicy } from "#core/policy/container-policy.ts";
import { type Audit, AuditKind, AuditSchema } from "#gen/gabion/audit/v1/audit_pb.ts";
import type { Event, Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { Fact } from "#gen/gabion/model/v1/model_pb.ts";
import { type Decision, Delivery, Effect, Outcome as PolicyOutcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { AgentOptions } from "../agent-options.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import type { SlotUse } from "../enforce/slot-table.ts";
import { killProcess, type StopResult } from "../enforce/stop.ts";
import { Outcome } from "../wire/layout.ts";
import type { AuditDraft, AuditWriter } from "./audit-writer.ts";
import type { Journal } from "./journal.ts";
import type { Learner } from "./learner.ts";
import type { Repeat, Told } from "./repeats.ts";

/** How the effect reached the act, with a note for people. */
export interface Delivered {
  readonly delivery: Delivery;
  readonly note: string;
}

/** A process that may be killed. */
export interface Target {
  readonly pid: number;
  readonly startNs: bigint;
}

const KINDS: Partial<Record<PolicyOutcome, AuditKind>> = {
  [PolicyOutcome.DENIAL]: AuditKind.DENIAL,
  [PolicyOutcome.DETECTION]: AuditKind.DETECTION,
};

/** True if the kernel refused the act or ended somebody for it. */
export function isActedInKernel(outcome: number): boolean {
  return outcome >= Outcome.KILLED && outcome !== Outcome.HELD;
}

/** What an event comes to: learned, audited, and what the decision asks for that the kernel has not done. */
export class Conclusion {
  readonly #learner: Learner;
  readonly #audits: AuditWriter;
  readonly #intelVersion: () => string;
  readonly #journal: Journal;
  readonly #onDecision: AgentOptions["onDecision"];
  readonly stop: (container: WatchedContainer) => Promise<StopResult>;

  constructor(options: {
    learner: Learner;
    audits: AuditWriter;
    intelVersion: () => string;
    journal: Journal;
    onDecision: AgentOptions["onDecision"];
    stop: (container: WatchedContainer) => Promise<StopResult>;
  }) {
    this.#learner = options.learner;
    this.#audits = options.audits;
    this.#intelVersion = options.intelVersion;
    this.#journal = options.journal;
    this.#onDecision = options.onDecision;
    this.stop = options.stop;
  }

  learn(container: WatchedContainer, facts: readonly Fact[], decision: Decision): void {
    if (!decision.isLearned && !decision.isHeld) return;
    // What is learned although the dry run alerts on it is what ends that.
    const isDeviation = decision.isLearned && decision.isDryRun;
    for (const fact of facts) {
      this.#learner.observe(container, fact, { isDeviation, isHeld: decision.isHeld, detector: decision.detector });
    }
  }

  /** Id by which a fact counts: that of its family, where the model has one for it. */
  idOf(container: WatchedContainer, fact: Fact): string {
    return this.#learner.idOf(container, fact);
  }

  /** What happened and what decided, as it is noted for those who change rules. */
  told(event: Event, decision: Decision): Told {
    return { key: this.#journal.keyOf(event, decision), event, decision };
  }

  /** Notes what happened and what decided. */
  note(container: WatchedContainer, { key, event, decision }: Told, use: SlotUse, section: Section): void {
    const policy = sectionPolicy(use.policy, section);
    // What a section that is off would have said is nobody's to know: it is not observed.
    if (policy.hasRule && policy.effect === Effect.DISABLE) return;
    this.#journal.note(container, key, event, decision);
    if (use.rule) this.#onDecision?.(use.rule.ruleId, decision, section, 1);
  }

  /** The same as before happened again. */
  countAgain(container: WatchedContainer, { section, factIds, told }: Repeat, use: SlotUse): void {
    for (const id of factIds) this.#learner.count(container, section, id);
    if (told) this.note(container, told, use, section);
  }

  /**
   * What the kernel did, if it did something; else what the agent can still do. An act that cannot be undone and whose
   * process is not the target (a connection, a look-up, an open file) is said to be out of reach.
   */
  async deliver(
    container: WatchedContainer,
    outcome: number,
    decision: Decision,
    act: { readonly killed: string; readonly denied: string; readonly happened: string; readonly target?: Target },
  ): Promise<Delivered> {
    switch (outcome) {
      case Outcome.DENIED:
      case Outcome.DENIED_CONTAINER: {
        const isBlock = outcome === Outcome.DENIED_CONTAINER || decision.effectApplied === Effect.BLOCK;
        const stopped = isBlock ? `; ${(await this.stop(container)).note}` : "";
        return { delivery: Delivery.DENIED, note: `${act.denied}${stopped}` };
      }
      case Outcome.KILLED:
        return { delivery: Delivery.KILLED, note: act.killed };
      case Outcome.KILLED_CONTAINER:
        return { delivery: Delivery.KILLED, note: `${act.killed}; ${(await this.stop(container)).note}` };
      case Outcome.ENDED_CONTAINER: {
        const note = `${act.happened}; its process was ended before it could go on; ${(await this.stop(container)).note}`;
        return { delivery: Delivery.AFTER_THE_FACT, note };
      }
      case Outcome.OBSERVED:
        return { delivery: Delivery.AUDITED, note: "it ran before it was watched, so nothing was done about it" };
      default:
        return this.#deliverHere(container, decision, act);
    }
  }

  async #deliverHere(
    container: WatchedContainer,
    { effectApplied }: Decision,
    act: { readonly happened: string; readonly target?: Target },
  ): Promise<Delivered> {
    if (effectApplied === Effect.BLOCK) {
      const { isStopped, note } = await this.stop(container);
      return { delivery: isStopped ? Delivery.AFTER_THE_FACT : Delivery.NOT_POSSIBLE, note };
    }
    if (effectApplied !== Effect.PREVENT) return { delivery: Delivery.AUDITED, note: "" };
    if (!act.target) return { delivery: Delivery.NOT_POSSIBLE, note: `${act.happened}: this node could not refuse it` };
    const wasThere = killProcess(act.target.pid, act.target.startNs);
    const note = wasThere ? "the process was killed after it had begun" : "the process had ended by itself";
    return { delivery: wasThere ? Delivery.AFTER_THE_FACT : Delivery.NOT_POSSIBLE, note };
  }

  /** Writes the audit; equal ones are folded, where `object` says what makes two of them equal. */
  audit(
    container: WatchedContainer,
    event: Event,
    decision: Decision,
    use: SlotUse,
    section: Section,
    delivered: Delivered,
    object: readonly unknown[],
  ): void {
    const completeness = use.completeness.get(section);
    const draft: AuditDraft = create(AuditSchema, {
      container: container.message,
      section,
      kind: KINDS[decision.outcome] ?? AuditKind.DEVIATION,
      event,
      decision,
      delivery: delivered.delivery,
      deliveryNote: delivered.note.slice(0, 1_000),
      ruleId: use.rule?.ruleId ?? "",
      ruleName: use.rule?.name ?? "",
      ruleRevision: use.rule?.revision ?? 0n,
      rulesetRevision: use.rulesetRevision,
      modelKey: use.modelKey,
      modelRevision: use.modelRevision,
      modelState: sectionPolicy(use.policy, section).state,
      ...(completeness ? { completeness } : {}),
      intelVersion: this.#intelVersion(),
      message: decision.explanation?.message ?? "",
      ...(event.eventTime ? { firstTime: event.eventTime } : {}),
    } satisfies Partial<Audit> as Parameters<typeof create<typeof AuditSchema>>[1]);
    const parts = [container.id, use.fingerprint, section, decision.outcome, decision.detector];
    this.#audits.write(draft, JSON.stringify([...parts, delivered.delivery, delivered.note, ...object]));
  }
}
