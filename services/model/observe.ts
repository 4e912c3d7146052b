import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, type HandlerContext } from "@connectrpc/connect";
import type { LifecycleDurations } from "#core/model/lifecycle.ts";
import type { AgentHello } from "#gen/gabion/fleet/v1/fleet_pb.ts";
import type { ContainerPresence } from "#gen/gabion/model/v1/model_pb.ts";
import {
  type ObserveRequest,
  type ObserveResponse,
  ObserveResponseSchema,
} from "#gen/gabion/model/v1/model_service_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";
import { peerKey } from "#lib/rpc/peer.ts";
import { type AgentStreams, requireHello, serviceHello, WINDOW_ITEMS } from "#lib/service/agent-streams.ts";
import { type Fleet, fleetId, TOUCH_MS } from "./fleet.ts";
import type { Journal } from "./journal.ts";
import { applyBatch, type ModelBatch } from "./learn.ts";
import { archiveOrReturn } from "./life.ts";
import type { Models } from "./models.ts";

export interface ObserveDependencies {
  readonly models: Models;
  readonly fleet: Fleet;
  readonly journal: Journal;
  readonly streams: AgentStreams;
  readonly clock: Clock;
  readonly durations: LifecycleDurations;
}

function groupByModel(request: ObserveRequest): Map<string, ModelBatch> {
  const batches = new Map<string, ModelBatch>();
  const of = (modelKey: string): ModelBatch => {
    const batch = batches.get(modelKey) ?? { facts: [], seenUnits: [], spans: [], containers: [] };
    batches.set(modelKey, batch);
    return batch;
  };
  for (const fact of request.facts) of(fact.modelKey).facts.push(fact);
  for (const unit of request.seenUnits) of(unit.modelKey).seenUnits.push(unit);
  for (const span of request.presenceSpans) of(span.modelKey).spans.push(span);
  for (const presence of request.containers) of(presence.container?.modelKey ?? "").containers.push(presence);
  return batches;
}

/** An agent speaks for its own node only. */
function checkNode(containers: readonly ContainerPresence[], nodeId: string): void {
  const foreign = containers.find(({ container }) => container?.nodeId !== nodeId);
  if (foreign) {
    const named = foreign.container?.nodeId ?? "";
    throw new ConnectError(`a container of node \`${named}\` was reported by \`${nodeId}\``, Code.PermissionDenied);
  }
}

/** Takes in what one agent observes. Each batch is acknowledged once everything in it is durable. */
export class Observer {
  readonly #deps: ObserveDependencies;

  constructor(deps: ObserveDependencies) {
    this.#deps = deps;
  }

  async *observe(requests: AsyncIterable<ObserveRequest>, context: HandlerContext): AsyncIterable<ObserveResponse> {
    const { fleet, streams, clock } = this.#deps;
    let hello: AgentHello | undefined;
    using stack = new DisposableStack();
    try {
      for await (const request of requests) {
        if (!hello) {
          const presented = requireHello(request.hello);
          stack.use(streams.admit(presented, context.values.get(peerKey)));
          hello = presented;
          await fleet.hello(hello, (container) => this.forget(container));
          // While its stream lives it is heard of, also where it has nothing to tell.
          const { nodeId } = hello;
          stack.use(clock.every(TOUCH_MS, () => fleet.touch(nodeId).catch(() => {})));
          yield create(ObserveResponseSchema, {
            hello: serviceHello(hello, 0n, clock.now()),
            windowItems: WINDOW_ITEMS,
          });
          continue;
        }
        await this.#take(request, hello);
        yield create(ObserveResponseSchema, { acknowledgedSequence: request.sequence, windowItems: WINDOW_ITEMS });
      }
    } finally {
      stack.dispose();
      if (hello && !streams.isConnected(hello.nodeId)) await fleet.disconnect(hello.nodeId);
    }
  }

  async #take(request: ObserveRequest, { nodeId, agentRunId }: AgentHello): Promise<void> {
    const { models, fleet, journal, clock, durations } = this.#deps;
    checkNode(request.containers, nodeId);
    const from = { nodeId, runId: agentRunId, sequence: Number(request.sequence) };
    // A container whose model could not be had when it started is given one now.
    for (const { container, isRunning } of request.containers) {
      if (container && isRunning) await models.ensure(container, []);
    }
    const changes = [...groupByModel(request)].map(([modelKey, batch]) =>
      models.change(modelKey, (record) => applyBatch(record, batch, from, durations, clock.now())),
    );
    await Promise.all(changes);
    for (const presence of request.containers) await fleet.presence(presence);
    await journal.add(nodeId, request.journal);
    if (request.enforced || request.lostItemCount > 0n) {
      await fleet.report(nodeId, { enforced: request.enforced, lostCount: request.lostItemCount });
    }
  }

  /** A container that has ended without anybody saying so. */
  async forget({ modelKey, nodeId, containerId }: Container): Promise<void> {
    const { models, clock, durations } = this.#deps;
    await models.change(modelKey, (record) => {
      const { [fleetId(nodeId, containerId)]: _, ...others } = record.containers;
      return archiveOrReturn({ ...record, containers: others }, durations, clock.now());
    });
  }
}
