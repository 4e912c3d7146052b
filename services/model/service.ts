import { create, fromBinary } from "@bufbuild/protobuf";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import type { ConnectRouter } from "@connectrpc/connect";
import { modelKey } from "#core/model/key.ts";
import type { LifecycleDurations, LifeEvent } from "#core/model/lifecycle.ts";
import {
  FleetService,
  GetNodeResponseSchema,
  ListContainersResponseSchema,
  ListNodesResponseSchema,
} from "#gen/gabion/fleet/v1/fleet_service_pb.ts";
import {
  ContainerPresenceSchema,
  ItemSource,
  ItemStatus,
  type JournalRecord,
  LearningState,
  type Model,
  ModelPolicySchema,
} from "#gen/gabion/model/v1/model_pb.ts";
import {
  EnsureModelResponseSchema,
  GetModelPolicyResponseSchema,
  GetModelResponseSchema,
  ListJournalResponseSchema,
  type ListModelsRequest,
  ListModelsResponseSchema,
  ModelService,
  type WatchModelsRequest,
  type WatchModelsResponse,
  WatchModelsResponseSchema,
} from "#gen/gabion/model/v1/model_service_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";
import type { FanOut } from "#lib/flow/fan-out.ts";
import { identityText } from "#lib/pki/identity.ts";
import { invalidRequest, notFound } from "#lib/rpc/errors.ts";
import { peerKey } from "#lib/rpc/peer.ts";
import { type PageQuery, readPage } from "#lib/service/page.ts";
import type { Collection, Condition, FieldValue, Stored } from "#lib/store/port.ts";
import type { Fleet } from "./fleet.ts";
import type { HistoryLog } from "./history.ts";
import type { Journal } from "./journal.ts";
import { stepAll } from "./life.ts";
import { toModel } from "./message.ts";
import type { Models } from "./models.ts";
import type { Observer } from "./observe.ts";
import { operationHandlers } from "./operation-handlers.ts";
import { changeItems } from "./operations.ts";
import { allModels, type ItemRecord, type ModelRecord } from "./record.ts";
import type { Summaries } from "./summary.ts";

export interface ModelChange {
  readonly modelKey: string;
  readonly model: Stored<ModelRecord> | undefined;
}

export interface ModelServiceDependencies {
  readonly collection: Collection<ModelRecord>;
  readonly summaries: Summaries;
  readonly models: Models;
  readonly fleet: Fleet;
  readonly journal: Journal;
  readonly journalRecords: Collection<JournalRecord>;
  readonly observer: Observer;
  readonly changes: FanOut<ModelChange>;
  readonly durations: LifecycleDurations;
  readonly clock: Clock;
  readonly history: HistoryLog;
}

/** What the store is asked for a page of models, and what is left to look at one by one. */
function modelQuery(request: ListModelsRequest): PageQuery<Model> {
  const { state, imageNameContains, orderBy, namespace, imageDigest, isArchived, hasHeld } = request;
  const [field = "", direction] = orderBy.split(" ");
  const order = ORDERS[field];
  const where: Condition[] = imageDigest === "" ? [] : [{ field: "imageDigest", is: "eq", value: imageDigest }];
  return {
    ...(order ? { orderBy: order.field, positionOf: order.of } : {}),
    isDescending: direction === "desc",
    where,
    passes: ({ value }) =>
      (state === LearningState.UNSPECIFIED || value.state === state) &&
      (namespace === "" || value.scope?.namespace === namespace) &&
      (isArchived === undefined || isArchived === value.isArchived) &&
      (!hasHeld || value.heldCount > 0) &&
      value.imageName.includes(imageNameContains),
  };
}

/** Orders beside that by key. */
const ORDERS: Readonly<Record<string, { readonly field: string; readonly of: (model: Model) => FieldValue }>> = {
  update_time: { field: "updateMs", of: ({ updateTime }) => (updateTime ? timestampMs(updateTime) : 0) },
  image_name: { field: "imageName", of: ({ imageName }) => imageName },
};

/** Handlers of model-service. */
export function registerModelService(router: ConnectRouter, deps: ModelServiceDependencies): void {
  const { collection, summaries, models, fleet, journal, journalRecords, observer, durations, clock } = deps;
  const step = async (key: string, etag: string, event: LifeEvent) => {
    const changed = await models.changeExisting(key, (r) => stepAll(r, event, durations, clock.now()), etag);
    return { model: toModel(changed, durations) };
  };
  router.service(ModelService, {
    observe: (requests, context) => observer.observe(requests, context),

    async ensureModel({ container, sections }, context) {
      const peer = context.values.get(peerKey);
      if (peer.kind !== "node" || peer.name !== container?.nodeId) {
        throw invalidRequest([{ field: "container.node_id", message: `must be \`${identityText(peer)}\`` }]);
      }
      if (!container?.modelScope || container.modelKey !== modelKey(container.modelScope)) {
        throw invalidRequest([{ field: "container.model_key", message: "is not the key of `container.model_scope`" }]);
      }
      await fleet.presence(create(ContainerPresenceSchema, { container, isRunning: true }));
      await journal.meet(container);
      const { value } = await models.ensure(container, sections);
      return create(EnsureModelResponseSchema, {
        modelPolicy: Buffer.from(value.policy, "base64"),
        needsStaticAnalysis: value.analysis === undefined,
      });
    },

    async listModels(request) {
      const { documents, nextPageToken } = await readPage(summaries, request, modelQuery(request));
      const shown: Model[] = [];
      for (const { id, value } of documents) {
        const stored = request.omitItems ? undefined : await collection.get(id);
        shown.push(stored ? toModel(stored, durations) : value);
      }
      return create(ListModelsResponseSchema, { models: shown, nextPageToken });
    },

    async getModel({ modelKey: key }) {
      const stored = await collection.get(key);
      if (!stored) throw notFound("model", key);
      return create(GetModelResponseSchema, { model: toModel(stored, durations) });
    },

    watchModels: (request, { signal }) => watch(deps, request, signal),

    relearnModel: ({ modelKey: key, etag }) => step(key, etag, { kind: "relearn" }),
    startManualLearning: ({ modelKey: key, etag }) => step(key, etag, { kind: "start_manual" }),
    stopManualLearning: ({ modelKey: key, etag }) => step(key, etag, { kind: "stop_manual" }),

    async removeModelItem({ modelKey: key, itemId, etag }) {
      const remove = (item: ItemRecord) => ({ ...item, status: ItemStatus.REMOVED, reason: "removed by a person" });
      const changed = await models.changeExisting(key, (r) => changeItems(r, remove, [itemId]), etag);
      return { model: toModel(changed, durations) };
    },

    async acceptModelItems({ modelKey: key, itemIds, etag }) {
      const accept = (item: ItemRecord) =>
        item.status === ItemStatus.HELD
          ? { ...item, status: ItemStatus.ALLOWED, source: ItemSource.PERSON, reason: "accepted by a person" }
          : item;
      const changed = await models.changeExisting(key, (r) => changeItems(r, accept, itemIds), etag);
      return { model: toModel(changed, durations) };
    },

    async getModelPolicy({ modelKey: key }) {
      const stored = await collection.get(key);
      if (!stored) throw notFound("model", key);
      const modelPolicy = fromBinary(ModelPolicySchema, Buffer.from(stored.value.policy, "base64"));
      return create(GetModelPolicyResponseSchema, { modelPolicy, containers: await journal.containersOf(key) });
    },

    async listJournal(request) {
      const ofModel = { field: "modelKey", is: "eq", value: request.modelKey } as const;
      const since = { field: "day", is: "gte", value: request.firstDay } as const;
      const where = [...(request.modelKey === "" ? [] : [ofModel]), ...(request.firstDay === "" ? [] : [since])];
      const { documents, nextPageToken } = await readPage(journalRecords, request, { where });
      return create(ListJournalResponseSchema, { records: documents.map(({ value }) => value), nextPageToken });
    },

    ...operationHandlers(deps),
  });
}

async function* oneModel(collection: Collection<ModelRecord>, key: string): AsyncIterable<Stored<ModelRecord>> {
  const stored = await collection.get(key);
  if (stored) yield stored;
}

/** Models as they are when a watch begins. */
async function* existing(
  { collection, summaries, durations }: ModelServiceDependencies,
  { modelKey: key, omitItems }: WatchModelsRequest,
): AsyncIterable<Model> {
  if (key === "" && omitItems) {
    for await (const { value } of summaries.all()) yield value;
    return;
  }
  for await (const document of key === "" ? allModels(collection) : oneModel(collection, key)) {
    yield toModel(document, durations, { hasItems: !omitItems });
  }
}

async function* watch(
  deps: ModelServiceDependencies,
  request: WatchModelsRequest,
  signal: AbortSignal,
): AsyncIterable<WatchModelsResponse> {
  const { durations, changes } = deps;
  const { modelKey: key, omitItems } = request;
  const live = changes.watch(signal);
  for await (const model of existing(deps, request)) yield create(WatchModelsResponseSchema, { model });
  for await (const { items, skippedCount } of live) {
    for (const { modelKey: changed, model } of items) {
      if (key !== "" && key !== changed) continue;
      const shown = model ? toModel(model, durations, { hasItems: !omitItems }) : { modelKey: changed };
      yield create(WatchModelsResponseSchema, {
        model: shown,
        isRemoved: model === undefined,
        skippedCount: BigInt(skippedCount),
      });
    }
  }
}

/** Handlers of the fleet. */
export function registerFleetService(router: ConnectRouter, { fleet }: ModelServiceDependencies): void {
  const withCount = async (stored: Stored<Parameters<typeof toNode>[0]>) =>
    toNode(stored.value, await fleet.containers.count([{ field: "nodeId", is: "eq", value: stored.id }]));
  router.service(FleetService, {
    async listNodes(request) {
      const { documents, nextPageToken } = await readPage(fleet.nodes, request, {});
      return create(ListNodesResponseSchema, { nodes: await Promise.all(documents.map(withCount)), nextPageToken });
    },
    async getNode({ nodeId }) {
      const stored = await fleet.nodes.get(nodeId);
      if (!stored) throw notFound("node", nodeId);
      return create(GetNodeResponseSchema, { node: await withCount(stored) });
    },
    async listContainers(request) {
      const where: Condition[] = [];
      if (request.nodeId !== "") where.push({ field: "nodeId", is: "eq", value: request.nodeId });
      if (request.modelKey !== "") where.push({ field: "modelKey", is: "eq", value: request.modelKey });
      const { documents, nextPageToken } = await readPage(fleet.containers, request, { where });
      return create(ListContainersResponseSchema, { containers: documents.map(({ value }) => value), nextPageToken });
    },
  });
}

function toNode(node: import("#gen/gabion/fleet/v1/fleet_pb.ts").Node, containerCount: number) {
  return { ...node, containerCount };
}
