import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { enumText } from "#core/text/enum-text.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { type Decision, Reason } from "#gen/gabion/policy/v1/policy_pb.ts";
import {
  type ReportRuleHitsRequest,
  ReportRuleHitsRequestSchema,
  RuleHitSchema,
} from "#gen/gabion/rule/v1/rule_service_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";

interface Hits {
  readonly ruleId: string;
  readonly entry: string;
  count: bigint;
  lastMs: number;
}

export interface RuleHitsOptions {
  readonly runId: string;
  readonly clock: Clock;
  readonly send: (request: ReportRuleHitsRequest) => Promise<unknown>;
}

/** How often counts are reported. */
const REPORT_MS = 15_000;
/** Distinct things that may have decided between two reports; further ones count for their rule only. */
const ENTRIES_MAX = 9_000;
const ENTRY_MAX = 4_608;

/** What of a rule decided; empty where it was not the rule itself but the model. */
export function entryOf(decision: Decision, section: Section): string {
  const { reason, matched = "" } = decision.explanation ?? {};
  const name = enumText(Section, section);
  switch (reason) {
    case Reason.CUSTOM_RULE:
      return `custom_rules: ${matched}`;
    case Reason.DENIED_LIST:
      return `${name}.denied: ${matched}`;
    case Reason.ALLOWED_LIST:
      return `${name}.allowed: ${matched}`;
    case Reason.DETECTOR:
      return `${name}.detectors: ${decision.detector}`;
    default:
      return "";
  }
}

/** Counts what rules and their entries decide here, and reports it. A report that did not get through is sent again as it was. */
export class RuleHits implements AsyncDisposable {
  readonly #options: RuleHitsOptions;
  readonly #timer: Disposable;
  #hits = new Map<string, Hits>();
  #sequence = 0n;
  #pending: ReportRuleHitsRequest | undefined;

  constructor(options: RuleHitsOptions) {
    this.#options = options;
    this.#timer = options.clock.every(REPORT_MS, () => this.report());
  }

  /** Counts a decision, as often as it was made. */
  note(ruleId: string, decision: Decision, section: Section, count = 1): void {
    this.#count(ruleId, "", count);
    const entry = entryOf(decision, section).slice(0, ENTRY_MAX);
    if (entry !== "") this.#count(ruleId, entry, count);
  }

  /** Sends what was counted; the service may be away. */
  async report(): Promise<void> {
    this.#pending ??= this.#cut();
    if (!this.#pending) return;
    try {
      await this.#options.send(this.#pending);
      this.#pending = undefined;
    } catch {
      // Told again, with the same number, when the next is due.
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#timer[Symbol.dispose]();
    await this.report();
  }

  #count(ruleId: string, entry: string, count: number): void {
    const key = `${ruleId}\0${entry}`;
    const known = this.#hits.get(key);
    const now = this.#options.clock.now();
    if (known) {
      known.count += BigInt(count);
      known.lastMs = now;
    } else if (entry === "" || this.#hits.size < ENTRIES_MAX) {
      this.#hits.set(key, { ruleId, entry, count: BigInt(count), lastMs: now });
    }
  }

  #cut(): ReportRuleHitsRequest | undefined {
    if (this.#hits.size === 0) return undefined;
    this.#sequence += 1n;
    const hits = [...this.#hits.values()].map(({ ruleId, entry, count, lastMs }) =>
      create(RuleHitSchema, { ruleId, entry, count, lastTime: timestampFromMs(lastMs) }),
    );
    this.#hits = new Map();
    return create(ReportRuleHitsRequestSchema, { agentRunId: this.#options.runId, sequence: this.#sequence, hits });
  }
}
