import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, type ServiceImpl } from "@connectrpc/connect";
import { apparmorProfile, networkPolicy, type Profile, seccompProfile } from "#core/model/profile.ts";
import { type Fact, ItemStatus, ModelHistoryEntrySchema } from "#gen/gabion/model/v1/model_pb.ts";
import {
  BatchChangeModelsResponseSchema,
  DiffModelsResponseSchema,
  ImportModelResponseSchema,
  InheritModelResponseSchema,
  ListModelHistoryResponseSchema,
  ModelChange,
  ModelChangeResultSchema,
  type ModelService,
  ProfileFormat,
  RenderModelProfileResponseSchema,
} from "#gen/gabion/model/v1/model_service_pb.ts";
import { identityText } from "#lib/pki/identity.ts";
import { invalidRequest, notFound, toConnectError } from "#lib/rpc/errors.ts";
import { peerKey } from "#lib/rpc/peer.ts";
import { DEFAULT_PAGE_SIZE, readPage } from "#lib/service/page.ts";
import type { Stored } from "#lib/store/port.ts";
import { exportModel, parseExport } from "./export.ts";
import { fleetId } from "./fleet.ts";
import { factOf } from "./items.ts";
import { stepAll } from "./life.ts";
import { toItem, toModel } from "./message.ts";
import {
  acceptHeld,
  addedCount,
  applyAnalysis,
  archiveNow,
  diffItems,
  importItems,
  inheritItems,
  pin,
  unfold,
} from "./operations.ts";
import type { ModelRecord } from "./record.ts";
import type { ModelServiceDependencies } from "./service.ts";

/** Models that one batch call changes. */
const BATCH_MAX = 1_000;

type Operations = Pick<
  ServiceImpl<typeof ModelService>,
  | "unfoldModelItem"
  | "pinModelItem"
  | "archiveModel"
  | "listModelHistory"
  | "exportModel"
  | "importModel"
  | "diffModels"
  | "inheritModel"
  | "renderModelProfile"
  | "batchChangeModels"
  | "submitStaticAnalysis"
>;

function allowedFacts({ sections }: ModelRecord): Fact[] {
  const items = sections.flatMap((section) => Object.values(section.items));
  return items.filter(({ status }) => status === ItemStatus.ALLOWED).map(factOf);
}

function render(format: ProfileFormat, record: ModelRecord): Profile {
  const facts = allowedFacts(record);
  const { namespace, workload, imageName, imageDigest } = record;
  switch (format) {
    case ProfileFormat.NETWORK_POLICY:
      return networkPolicy(facts, { namespace, workload: workload || imageName });
    case ProfileFormat.APPARMOR:
      return apparmorProfile(facts, `gabion-${workload || imageName || imageDigest.slice(7, 19)}`);
    default:
      return seccompProfile(facts);
  }
}

/** Handlers of what people do with models beside reading them. */
export function operationHandlers(deps: ModelServiceDependencies): Operations {
  const { collection, models, fleet, durations, clock, history } = deps;
  const existing = async (key: string): Promise<Stored<ModelRecord>> => {
    const stored = await collection.get(key);
    if (!stored) throw notFound("model", key);
    return stored;
  };
  const change = async (key: string, etag: string, how: (record: ModelRecord) => ModelRecord) => ({
    model: toModel(await models.changeExisting(key, how, etag), durations),
  });
  const archiving = async (key: string): Promise<(record: ModelRecord) => ModelRecord> => {
    const { value } = await existing(key);
    const nodes = [...new Set(Object.values(value.containers))];
    const connected = new Set<string>();
    for (const node of nodes) if (await fleet.isConnected(node)) connected.add(node);
    // A node that was not asked about has begun to run it meanwhile.
    const isConnected = (node: string) => connected.has(node) || !nodes.includes(node);
    return (record) => archiveNow(record, isConnected, durations, clock.now());
  };
  const changeOne = async (key: string, wanted: ModelChange): Promise<void> => {
    const now = clock.now();
    const step = (kind: "relearn" | "start_manual" | "stop_manual") => (record: ModelRecord) =>
      stepAll(record, { kind }, durations, now);
    const ways: ReadonlyMap<ModelChange, (record: ModelRecord) => ModelRecord> = new Map([
      [ModelChange.RELEARN, step("relearn")],
      [ModelChange.START_MANUAL, step("start_manual")],
      [ModelChange.STOP_MANUAL, step("stop_manual")],
      [ModelChange.ACCEPT_HELD, acceptHeld],
    ]);
    const how = wanted === ModelChange.ARCHIVE ? await archiving(key) : ways.get(wanted);
    if (how) await models.changeExisting(key, how, "");
  };
  return {
    unfoldModelItem: ({ modelKey, itemId, etag }) => change(modelKey, etag, (r) => unfold(r, itemId, clock.now())),
    pinModelItem: ({ modelKey, itemId, etag }) => change(modelKey, etag, (r) => pin(r, itemId)),
    archiveModel: async ({ modelKey, etag }) => change(modelKey, etag, await archiving(modelKey)),

    async listModelHistory({ modelKey, pageSize, pageToken }) {
      const { value } = await existing(modelKey);
      const limit = pageSize === 0 ? DEFAULT_PAGE_SIZE : pageSize;
      const after = pageToken === "" ? 0 : Number(pageToken);
      if (!Number.isInteger(after))
        throw invalidRequest([{ field: "page_token", message: "is not one of this service" }]);
      const logged = await history.read(modelKey, value, after, limit + 1);
      const last = logged.at(-1)?.sequence ?? after;
      const pending = logged.length > limit ? [] : (value.history ?? []).filter(({ sequence }) => sequence > last);
      const all = [...logged, ...pending];
      const entries = all.slice(0, limit).map(({ timeMs, sequence, kind, section, itemId, text }) =>
        create(ModelHistoryEntrySchema, {
          sequence: BigInt(sequence),
          entryTime: timestampFromMs(timeMs),
          kind,
          section,
          itemId,
          text,
        }),
      );
      const nextPageToken = all.length > limit ? String(entries.at(-1)?.sequence ?? 0) : "";
      return create(ListModelHistoryResponseSchema, { entries, nextPageToken });
    },

    exportModel: async ({ modelKey }) => ({ document: exportModel((await existing(modelKey)).value) }),

    async importModel({ modelKey, document, validateOnly, etag }) {
      const given = parseExport(document, clock.now());
      const before = await existing(modelKey);
      const imported = (record: ModelRecord) => importItems(record, given, clock.now());
      const after = validateOnly
        ? { ...before, value: imported(before.value) }
        : await models.changeExisting(modelKey, imported, etag);
      return create(ImportModelResponseSchema, {
        model: toModel(after, durations),
        addedCount: addedCount(before.value, after.value),
      });
    },

    async diffModels({ baseModelKey, modelKey }) {
      const base = (await existing(baseModelKey)).value;
      const other = (await existing(modelKey)).value;
      const { added, removed, commonCount } = diffItems(base, other);
      const shown = (record: ModelRecord, ids: readonly string[]) =>
        record.sections.flatMap(({ items }) =>
          ids.flatMap((id) => (items[id] ? [toItem(id, items[id], record.containerTotal ?? 0)] : [])),
        );
      return create(DiffModelsResponseSchema, {
        added: shown(other, added),
        removed: shown(base, removed),
        commonCount,
      });
    },

    async inheritModel({ modelKey, fromModelKey, etag }) {
      const before = await existing(modelKey);
      const from = fromModelKey === "" ? await models.predecessor(before.value) : await existing(fromModelKey);
      if (!from) {
        const message = "there is no other digest of this image in the same place: name a model";
        throw invalidRequest([{ field: "from_model_key", message }]);
      }
      const inherited = (record: ModelRecord) => inheritItems(record, from.value, from.id, clock.now());
      const after = await models.changeExisting(modelKey, inherited, etag);
      return create(InheritModelResponseSchema, {
        model: toModel(after, durations),
        addedCount: addedCount(before.value, after.value),
      });
    },

    async renderModelProfile({ modelKey, format }) {
      const { document, unexpressed } = render(format, (await existing(modelKey)).value);
      return create(RenderModelProfileResponseSchema, { document, unexpressed: [...unexpressed] });
    },

    async batchChangeModels({ change: wanted, modelKeys, imageNameContains, namespace, validateOnly, pageToken }) {
      const keys = new Set(modelKeys);
      const passes = ({ id, value }: Stored<ModelRecord>) =>
        (keys.size === 0 || keys.has(id)) &&
        (namespace === "" || value.namespace === namespace) &&
        value.imageName.includes(imageNameContains);
      const page = await readPage(collection, { pageSize: BATCH_MAX, pageToken }, { passes });
      const results = [];
      for (const { id: modelKey, value } of page.documents) {
        const error = validateOnly
          ? ""
          : await changeOne(modelKey, wanted).then(
              () => "",
              (fault: unknown) => toConnectError(fault).rawMessage,
            );
        results.push(create(ModelChangeResultSchema, { modelKey, imageName: value.imageName, error }));
      }
      return create(BatchChangeModelsResponseSchema, { results, nextPageToken: page.nextPageToken });
    },

    async submitStaticAnalysis({ modelKey, containerId, analysis }, context) {
      const peer = context.values.get(peerKey);
      const before = await existing(modelKey);
      // Only a node that runs the image may say what is in it.
      const nodeId = peer.kind === "node" ? peer.name : "";
      if (before.value.containers[fleetId(nodeId, containerId)] === undefined) {
        throw new ConnectError(
          `\`${identityText(peer)}\` runs no container \`${containerId}\` of this model`,
          Code.PermissionDenied,
        );
      }
      if (!analysis) throw invalidRequest([{ field: "analysis", message: "is missing" }]);
      const after = await models.changeExisting(modelKey, (r) => applyAnalysis(r, analysis, clock.now()), "");
      return { addedCount: addedCount(before.value, after.value) };
    },
  };
}
