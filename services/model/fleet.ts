import { create } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { type AgentHello, type Enforced, type Node, NodeSchema } from "#gen/gabion/fleet/v1/fleet_pb.ts";
import type { ContainerPresence } from "#gen/gabion/model/v1/model_pb.ts";
import { type Container, ContainerSchema } from "#gen/gabion/workload/v1/workload_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";
import { type Collection, type CollectionSpec, StaleRevisionError } from "#lib/store/port.ts";
import { protoCodec } from "#lib/store/proto-codec.ts";

export const NODES: CollectionSpec<Node> = { name: "nodes", codec: protoCodec(NodeSchema, () => ({})), fields: {} };
export const CONTAINERS: CollectionSpec<Container> = {
  name: "containers",
  codec: protoCodec(ContainerSchema, ({ nodeId, modelKey }) => ({ nodeId, modelKey })),
  fields: { nodeId: {}, modelKey: {} },
};

const TRIES_MAX = 5;
const SLICE = 500;
/** How often a node that is connected is said to be heard of. */
export const TOUCH_MS = 30_000;

/** Identity of a container in the fleet: containers of two nodes may share an id. */
export function fleetId(nodeId: string, containerId: string): string {
  return `${nodeId}/${containerId}`;
}

/** The fleet: nodes as their agents present them, and the containers on them. */
export class Fleet {
  readonly nodes: Collection<Node>;
  readonly containers: Collection<Container>;
  readonly #clock: Clock;

  constructor(nodes: Collection<Node>, containers: Collection<Container>, clock: Clock) {
    this.nodes = nodes;
    this.containers = containers;
    this.#clock = clock;
  }

  /**
   * Notes a hello. Containers of an earlier agent run count as ended until the new one names them: each is given to
   * `forget` before it goes, so that nothing is forgotten by half.
   */
  async hello(hello: AgentHello, forget: (container: Container) => Promise<void>): Promise<void> {
    const before = await this.nodes.get(hello.nodeId);
    if (before && before.value.hello?.agentRunId !== hello.agentRunId) await this.#forgetAll(hello.nodeId, forget);
    await this.#change(hello.nodeId, (node) =>
      create(NodeSchema, { ...node, hello, isConnected: true, lostEventCount: 0n }),
    );
  }

  /** Notes what a node enforces now, and what it lost. */
  async report(nodeId: string, report: { enforced: Enforced | undefined; lostCount: bigint }): Promise<void> {
    await this.#change(nodeId, (node) => {
      const hello = node.hello && report.enforced ? { ...node.hello, enforced: report.enforced } : node.hello;
      return create(NodeSchema, { ...node, ...(hello ? { hello } : {}), lostEventCount: report.lostCount });
    });
  }

  /** A node is heard of. */
  async touch(nodeId: string): Promise<void> {
    await this.#change(nodeId, (node) => node);
  }

  /** Gives containers of nodes that were not heard of for a lease to `forget`, and drops them. */
  async endLost(leaseMs: number, forget: (container: Container) => Promise<void>): Promise<void> {
    const before = this.#clock.now() - leaseMs;
    let after: { value: string; id: string } | undefined;
    for (;;) {
      const slice = await this.nodes.find({ limit: SLICE, ...(after ? { after } : {}) });
      for (const { id, value } of slice) {
        const heardMs = value.lastSeenTime ? timestampMs(value.lastSeenTime) : 0;
        if (heardMs < before && (await this.#isStillLost(id, before))) await this.#forgetAll(id, forget);
      }
      const last = slice.at(-1);
      if (!last || slice.length < SLICE) return;
      after = { value: last.id, id: last.id };
    }
  }

  async #isStillLost(nodeId: string, beforeMs: number): Promise<boolean> {
    const time = (await this.nodes.get(nodeId))?.value.lastSeenTime;
    return time === undefined || timestampMs(time) < beforeMs;
  }

  /** Tells whether a node's agent is connected. */
  async isConnected(nodeId: string): Promise<boolean> {
    return (await this.nodes.get(nodeId))?.value.isConnected === true;
  }

  async disconnect(nodeId: string): Promise<void> {
    await this.#change(nodeId, (node) => create(NodeSchema, { ...node, isConnected: false }));
  }

  async presence({ container, isRunning }: ContainerPresence): Promise<void> {
    if (!container) return;
    const id = fleetId(container.nodeId, container.containerId);
    if (isRunning) await this.containers.insertMissing([{ id, value: container }]);
    else await this.containers.delete(id);
  }

  async #forgetAll(nodeId: string, forget: (container: Container) => Promise<void>): Promise<void> {
    const where = [{ field: "nodeId", is: "eq", value: nodeId } as const];
    for (;;) {
      const slice = await this.containers.find({ where, orderBy: "nodeId", limit: SLICE });
      for (const { id, value } of slice) {
        await forget(value);
        await this.containers.delete(id);
      }
      if (slice.length < SLICE) return;
    }
  }

  async #change(nodeId: string, change: (node: Node) => Node): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      const now = timestampFromMs(this.#clock.now());
      const stored = await this.nodes.get(nodeId);
      const base = stored?.value ?? create(NodeSchema, { nodeId, createTime: now });
      const next = create(NodeSchema, { ...change(base), lastSeenTime: now });
      try {
        if (stored) await this.nodes.replace(nodeId, next, stored.revision);
        else await this.nodes.insertMissing([{ id: nodeId, value: next }]);
        return;
      } catch (error) {
        if (!(error instanceof StaleRevisionError) || attempt >= TRIES_MAX) throw error;
      }
    }
  }
}
