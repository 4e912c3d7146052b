import { Code, ConnectError, createClient } from "@connectrpc/connect";
import type { Node } from "#gen/gabion/fleet/v1/fleet_pb.ts";
import { FleetService } from "#gen/gabion/fleet/v1/fleet_service_pb.ts";
import type { JournalRecord, ModelPolicy } from "#gen/gabion/model/v1/model_pb.ts";
import { ModelService } from "#gen/gabion/model/v1/model_service_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import type { RpcClient } from "#lib/rpc/client.ts";
import { RpcFault } from "#lib/rpc/errors.ts";

const PAGE = 1_000;
/** Nodes and containers read for one answer at most. */
const READ_MAX = 100_000;

/** A model as it is enforced, with the containers that the journal knows of it. */
export interface ModelView {
  readonly policy: ModelPolicy | undefined;
  readonly containers: readonly Container[];
}

/** What rule-service asks model-service for. */
export interface FleetView {
  readonly nodes: () => Promise<Node[]>;
  readonly containers: () => Promise<Container[]>;
  readonly model: (modelKey: string) => Promise<ModelView>;
  /** Without an end of its own: whoever reads it stops where it has enough. */
  readonly journal: (firstDay: string, modelKey: string) => AsyncIterable<JournalRecord>;
}

async function* pages<Item>(
  read: (pageToken: string) => Promise<{ readonly items: readonly Item[]; readonly nextPageToken: string }>,
): AsyncIterable<Item> {
  let token = "";
  do {
    const { items, nextPageToken } = await read(token);
    yield* items;
    token = nextPageToken;
  } while (token !== "");
}

/** All of them, or none: an answer over a part would look like one over the whole. */
async function whole<Item>(what: string, items: AsyncIterable<Item>): Promise<Item[]> {
  const read: Item[] = [];
  for await (const item of items) {
    if (read.length >= READ_MAX) {
      const message = `there are more than ${READ_MAX} ${what}, which is more than one answer goes through`;
      throw new RpcFault(Code.ResourceExhausted, "FLEET_TOO_LARGE", message);
    }
    read.push(item);
  }
  return read;
}

/** The failure of a call to another service, as the caller is told of it. */
export function said(service: "model" | "intel", error: unknown): never {
  const { code, rawMessage } = ConnectError.from(error);
  if (code !== Code.Unavailable && code !== Code.DeadlineExceeded) throw error;
  const reason = `${service.toUpperCase()}_SERVICE_UNAVAILABLE`;
  throw new RpcFault(Code.Unavailable, reason, `${service}-service does not answer: ${rawMessage}`);
}

/** Asks model-service by RPC. */
export function createFleetView({ transport }: RpcClient): FleetView {
  const fleet = createClient(FleetService, transport);
  const models = createClient(ModelService, transport);
  return {
    nodes: () =>
      whole(
        "nodes",
        pages(async (pageToken) => {
          const { nodes, nextPageToken } = await fleet
            .listNodes({ pageSize: PAGE, pageToken })
            .catch((error) => said("model", error));
          return { items: nodes, nextPageToken };
        }),
      ),
    containers: () =>
      whole(
        "containers",
        pages(async (pageToken) => {
          const { containers, nextPageToken } = await fleet
            .listContainers({ pageSize: PAGE, pageToken })
            .catch((error) => said("model", error));
          return { items: containers, nextPageToken };
        }),
      ),
    async model(modelKey) {
      try {
        const { modelPolicy, containers } = await models.getModelPolicy({ modelKey });
        return { policy: modelPolicy, containers };
      } catch (error) {
        if (ConnectError.from(error).code === Code.NotFound) return { policy: undefined, containers: [] };
        return said("model", error);
      }
    },
    journal: (firstDay, modelKey) =>
      pages(async (pageToken) => {
        const request = { firstDay, modelKey, pageSize: PAGE, pageToken };
        const { records, nextPageToken } = await models.listJournal(request).catch((error) => said("model", error));
        return { items: records, nextPageToken };
      }),
  };
}
