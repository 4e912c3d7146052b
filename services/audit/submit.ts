import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, type HandlerContext } from "@connectrpc/connect";
import type { Audit } from "#gen/gabion/audit/v1/audit_pb.ts";
import {
  type SubmitAuditsRequest,
  type SubmitAuditsResponse,
  SubmitAuditsResponseSchema,
} from "#gen/gabion/audit/v1/audit_service_pb.ts";
import type { AgentHello } from "#gen/gabion/fleet/v1/fleet_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";
import { peerKey } from "#lib/rpc/peer.ts";
import { type AgentStreams, requireHello, serviceHello, WINDOW_ITEMS } from "#lib/service/agent-streams.ts";
import type { Audits } from "./audits.ts";
import type { AgentRun, AgentRuns } from "./runs.ts";

export interface SubmitDependencies {
  readonly audits: Audits;
  readonly runs: AgentRuns;
  readonly streams: AgentStreams;
  readonly clock: Clock;
  /** Told of audits that have become durable. */
  readonly onDurable: (audits: readonly Audit[]) => Promise<void>;
}

/** An agent speaks for its own node and run only. */
function checkOwner(request: SubmitAuditsRequest, { nodeId, agentRunId }: AgentHello): void {
  const foreign = request.audits.find((audit) => audit.nodeId !== nodeId || audit.agentRunId !== agentRunId);
  if (foreign) {
    throw new ConnectError(`an audit of node \`${foreign.nodeId}\` was sent by \`${nodeId}\``, Code.PermissionDenied);
  }
}

/** Takes in the audits of one agent: each batch is acknowledged once it is durable, and counts once however often it comes. */
export async function* submitAudits(
  deps: SubmitDependencies,
  requests: AsyncIterable<SubmitAuditsRequest>,
  context: HandlerContext,
): AsyncIterable<SubmitAuditsResponse> {
  let hello: AgentHello | undefined;
  let run: AgentRun | undefined;
  using stack = new DisposableStack();
  for await (const request of requests) {
    if (!hello || !run) {
      hello = requireHello(request.hello);
      stack.use(deps.streams.admit(hello, context.values.get(peerKey)));
      run = await deps.runs.begin(hello.nodeId, hello.agentRunId);
      const answer = serviceHello(hello, BigInt(run.batchSequence), deps.clock.now());
      yield create(SubmitAuditsResponseSchema, { hello: answer, windowItems: WINDOW_ITEMS });
      continue;
    }
    checkOwner(request, hello);
    if (Number(request.sequence) > run.batchSequence) {
      await deps.audits.add(request.audits);
      await deps.onDurable(request.audits);
      run = await deps.runs.follow(run, Number(request.sequence), request.audits);
    }
    yield create(SubmitAuditsResponseSchema, { acknowledgedSequence: request.sequence, windowItems: WINDOW_ITEMS });
  }
}
