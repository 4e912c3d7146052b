import { create } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";
import { auditDigest } from "#core/policy/audit-digest.ts";
import { type Audit, AuditKind, AuditSchema, SystemEventSchema } from "#gen/gabion/audit/v1/audit_pb.ts";
import { Delivery } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";

/** An audit before it takes its place in the chain. */
export type AuditDraft = Omit<
  Audit,
  | "$typeName"
  | "$unknown"
  | "auditId"
  | "nodeId"
  | "agentRunId"
  | "chainSequence"
  | "previousDigest"
  | "count"
  | "lastTime"
  | "receiveTime"
>;

/** Repeats within this time are told as one, with their count. */
const FOLD_MS = 10_000;
const FOLDS_MAX = 10_000;

interface Fold {
  readonly endMs: number;
  readonly draft: AuditDraft;
  count: bigint;
  last: Audit["lastTime"];
}

/** Fields of a system audit. */
export interface SystemAudit {
  readonly name: string;
  readonly message: string;
  readonly isSuccess?: boolean;
  readonly verdictId?: string;
  readonly container?: Audit["container"];
  /** Those with one key within a fold are told as one, with their count. Empty where each is told. */
  readonly foldKey?: string;
}

/**
 * Writes this agent run's audits: numbered without gaps and chained by digest, repeats folded. The first of a kind
 * leaves at once, so that nothing new ever waits; what follows within ten seconds leaves as one with its exact count.
 */
export class AuditWriter implements Disposable {
  readonly #nodeId: string;
  readonly #runId: string;
  readonly #clock: Clock;
  readonly #send: (audit: Audit) => void;
  readonly #folds = new Map<string, Fold>();
  readonly #timer: Disposable;
  #sequence = 0n;
  #previous: Uint8Array = new Uint8Array();

  constructor(options: { nodeId: string; runId: string; clock: Clock; send: (audit: Audit) => void }) {
    this.#nodeId = options.nodeId;
    this.#runId = options.runId;
    this.#clock = options.clock;
    this.#send = options.send;
    this.#timer = options.clock.every(1_000, () => this.#endFolds(false));
  }

  /** Writes an audit, or counts it to one like it. Audits with an empty key are never folded. */
  write(draft: AuditDraft, foldKey: string): void {
    const fold = foldKey === "" ? undefined : this.#folds.get(foldKey);
    if (fold) {
      fold.count += 1n;
      fold.last = draft.firstTime;
      return;
    }
    if (foldKey !== "" && this.#folds.size < FOLDS_MAX) {
      this.#folds.set(foldKey, { endMs: this.#clock.now() + FOLD_MS, draft, count: 0n, last: draft.firstTime });
    }
    this.#emit(draft, 1n, draft.firstTime);
  }

  /** Writes an audit about Gabion itself. */
  writeSystem({ name, message, isSuccess = true, verdictId = "", container, foldKey = "" }: SystemAudit): void {
    const draft = create(AuditSchema, {
      ...(container ? { container } : {}),
      kind: AuditKind.SYSTEM,
      delivery: Delivery.AUDITED,
      message,
      firstTime: timestampNow(),
      system: create(SystemEventSchema, { name, isSuccess, verdictId }),
    });
    this.write(draft, foldKey);
  }

  /** Writes out what is being folded, at the agent's end. */
  flush(): void {
    this.#endFolds(true);
  }

  [Symbol.dispose](): void {
    this.#timer[Symbol.dispose]();
  }

  #endFolds(isEnd: boolean): void {
    for (const [key, fold] of this.#folds) {
      if (!isEnd && fold.endMs > this.#clock.now()) continue;
      this.#folds.delete(key);
      if (fold.count > 0n) this.#emit(fold.draft, fold.count, fold.last);
    }
  }

  #emit(draft: AuditDraft, count: bigint, lastTime: Audit["lastTime"]): void {
    this.#sequence += 1n;
    const audit = create(AuditSchema, {
      ...draft,
      nodeId: this.#nodeId,
      agentRunId: this.#runId,
      chainSequence: this.#sequence,
      previousDigest: this.#previous,
      count,
      ...(lastTime ? { lastTime } : {}),
    });
    this.#previous = auditDigest(audit);
    this.#send(audit);
  }
}
