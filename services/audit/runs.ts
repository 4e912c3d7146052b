import { auditDigest } from "#core/policy/audit-digest.ts";
import type { Audit } from "#gen/gabion/audit/v1/audit_pb.ts";
import type { Collection, CollectionSpec } from "#lib/store/port.ts";
import { jsonCodec } from "#lib/store/proto-codec.ts";
import type { Audits } from "./audits.ts";

/** What is known of one agent run: how far its chain of audits came, and whether it ended in order. */
export interface AgentRun {
  readonly nodeId: string;
  readonly runId: string;
  /** Highest batch that is durable. */
  readonly batchSequence: number;
  readonly chainSequence: number;
  /** SHA-256 of the last audit, base64. */
  readonly lastDigest: string;
  readonly isEnded: boolean;
}

export const AGENT_RUNS: CollectionSpec<AgentRun> = {
  name: "agent_runs",
  codec: jsonCodec(({ nodeId, isEnded }) => ({ nodeId, isEnded })),
  fields: { nodeId: {}, isEnded: {} },
};

/** Name of the audit with which an agent ends in order. */
export const AGENT_STOPPED = "agent_stopped";
const OPEN_RUNS_MAX = 100;

/** Follows the chain of each agent run. A gap, a broken link and a run that ended without a word become audits. */
export class AgentRuns {
  readonly #collection: Collection<AgentRun>;
  readonly #audits: Audits;

  constructor(collection: Collection<AgentRun>, audits: Audits) {
    this.#collection = collection;
    this.#audits = audits;
  }

  /** Notes that a run is there, and that earlier ones of the node can no longer end in order. */
  async begin(nodeId: string, runId: string): Promise<AgentRun> {
    const where = [
      { field: "nodeId", is: "eq", value: nodeId } as const,
      { field: "isEnded", is: "eq", value: false } as const,
    ];
    for (const { id, value, revision } of await this.#collection.find({ where, limit: OPEN_RUNS_MAX })) {
      if (value.runId === runId) continue;
      const message = `agent run ${value.runId} of node ${nodeId} ended without saying so: what it saw after audit ${value.chainSequence} is missing`;
      await this.#audits.addOwn(nodeId, value.runId, "agent_run_gap", message);
      await this.#collection.replace(id, { ...value, isEnded: true }, revision);
    }
    const first: AgentRun = { nodeId, runId, batchSequence: 0, chainSequence: 0, lastDigest: "", isEnded: false };
    await this.#collection.insertMissing([{ id: `${nodeId}:${runId}`, value: first }]);
    return (await this.#collection.get(`${nodeId}:${runId}`))?.value ?? first;
  }

  /** Checks a batch against the chain and notes how far it came. */
  async follow(run: AgentRun, batchSequence: number, audits: readonly Audit[]): Promise<AgentRun> {
    let next: AgentRun = { ...run, batchSequence };
    for (const audit of audits) {
      await this.#checkLink(next, audit);
      next = {
        ...next,
        chainSequence: Number(audit.chainSequence),
        lastDigest: Buffer.from(auditDigest(audit)).toString("base64"),
        isEnded: audit.system?.name === AGENT_STOPPED,
      };
    }
    const id = `${run.nodeId}:${run.runId}`;
    const stored = await this.#collection.get(id);
    if (stored) await this.#collection.replace(id, next, stored.revision);
    return next;
  }

  async #checkLink(run: AgentRun, audit: Audit): Promise<void> {
    const { nodeId, runId, chainSequence, lastDigest } = run;
    const number = Number(audit.chainSequence);
    if (number !== chainSequence + 1) {
      const message = `audits ${chainSequence + 1} to ${number - 1} of agent run ${runId} are missing`;
      await this.#audits.addOwn(nodeId, `${runId}/${number}`, "audit_gap", message);
    } else if (Buffer.from(audit.previousDigest).toString("base64") !== lastDigest) {
      const message = `audit ${number} of agent run ${runId} does not follow from the one before`;
      await this.#audits.addOwn(nodeId, `${runId}/${number}`, "audit_chain_broken", message);
    }
  }
}
