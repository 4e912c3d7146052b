import { create } from "@bufbuild/protobuf";
import { durationFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { type AgentHello, type ServiceHello, ServiceHelloSchema } from "#gen/gabion/fleet/v1/fleet_pb.ts";
import type { Identity } from "../pki/identity.ts";
import { gabionVersion } from "./version.ts";

/** Protocol of the agent streams that this version speaks. */
export const PROTOCOL_VERSION = 1;
/** Items that an agent may have in flight. */
export const WINDOW_ITEMS = 10_000;

/** The live streams of agents at one service: one for each node. */
export class AgentStreams {
  readonly #live = new Map<string, { readonly runId: string; readonly token: symbol }>();

  /**
   * Admits a stream by its hello. A second agent that presents the same node is refused until the first is gone; the
   * same agent run may come again, because its old connection may not be known to be dead yet.
   */
  admit(hello: AgentHello, peer: Identity): Disposable {
    if (peer.kind !== "node" || peer.name !== hello.nodeId) {
      const who = peer.kind === "anonymous" ? "nobody" : peer.name;
      throw new ConnectError(
        `the certificate is for node \`${who}\`, the hello for \`${hello.nodeId}\``,
        Code.PermissionDenied,
      );
    }
    const { nodeId, agentRunId } = hello;
    const run = this.#live.get(nodeId)?.runId;
    if (run !== undefined && run !== agentRunId) {
      throw new ConnectError(
        `another agent presents node \`${nodeId}\` (run ${run}): end it, or give this one a node id of its own`,
        Code.AlreadyExists,
      );
    }
    const token = Symbol(nodeId);
    this.#live.set(nodeId, { runId: agentRunId, token });
    return {
      [Symbol.dispose]: () => {
        if (this.#live.get(nodeId)?.token === token) this.#live.delete(nodeId);
      },
    };
  }

  isConnected(nodeId: string): boolean {
    return this.#live.has(nodeId);
  }
}

/** The answer to a hello. */
export function serviceHello(hello: AgentHello, acknowledgedSequence: bigint, nowMs: number): ServiceHello {
  const offsetMs = hello.sendTime ? timestampMs(hello.sendTime) - nowMs : 0;
  return create(ServiceHelloSchema, {
    protocolVersion: Math.min(PROTOCOL_VERSION, hello.protocolVersion),
    serviceVersion: gabionVersion(),
    acknowledgedSequence,
    windowItems: WINDOW_ITEMS,
    clockOffset: durationFromMs(offsetMs),
  });
}

/** The hello that a stream must begin with. */
export function requireHello(hello: AgentHello | undefined): AgentHello {
  if (!hello) throw new ConnectError("the first message must carry a hello", Code.InvalidArgument);
  return hello;
}
