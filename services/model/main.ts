import { DEFAULT_DURATIONS, type LifecycleDurations } from "#core/model/lifecycle.ts";
import { FleetService } from "#gen/gabion/fleet/v1/fleet_service_pb.ts";
import { ModelService } from "#gen/gabion/model/v1/model_service_pb.ts";
import { HeadPublisher, type PublishedBody } from "#lib/bus/head-publisher.ts";
import { ensurePolicyBucket } from "#lib/bus/policy-bucket.ts";
import { type ConfigOf, durationMs } from "#lib/config/config.ts";
import { FanOut } from "#lib/flow/fan-out.ts";
import { ROLE_TABLE } from "#lib/rpc/role-table.ts";
import { listenRpc, type RpcServer } from "#lib/rpc/server.ts";
import { AgentStreams } from "#lib/service/agent-streams.ts";
import { runService } from "#lib/service/run.ts";
import { openRuntime } from "#lib/service/runtime.ts";
import { SERVICE_PORTS, serviceSettings } from "#lib/service/settings.ts";
import type { Collection } from "#lib/store/port.ts";
import { CONTAINERS, Fleet, NODES } from "./fleet.ts";
import { dueMs } from "./life.ts";
import { Models, publishedBody } from "./models.ts";
import { Observer } from "./observe.ts";
import { type ModelRecord, modelCollection } from "./record.ts";
import { type ModelChange, registerFleetService, registerModelService } from "./service.ts";

const duration = (fallback: number, description: string) => ({ type: durationMs.default(fallback), description });

/** Settings of model-service. */
export const MODEL_SETTINGS = {
  ...serviceSettings(SERVICE_PORTS.model),
  "model.learning": duration(DEFAULT_DURATIONS.learningMs, "observed container time of learning"),
  "model.dryRun": duration(DEFAULT_DURATIONS.dryRunMs, "wall-clock time of the dry run"),
  "model.extendedLearning": duration(DEFAULT_DURATIONS.extendedLearningMs, "wall-clock time of extended learning"),
  "model.relearning": duration(DEFAULT_DURATIONS.relearningMs, "observed container time of relearning"),
  "model.archive": duration(DEFAULT_DURATIONS.archiveMs, "time that an archived model is kept"),
};

const TICK_MS = 250;
const WATCH_CAPACITY = 1_000;
const PAGE = 500;

function durationsOf(config: ConfigOf<typeof MODEL_SETTINGS>): LifecycleDurations {
  return {
    learningMs: config["model.learning"],
    dryRunMs: config["model.dryRun"],
    extendedLearningMs: config["model.extendedLearning"],
    relearningMs: config["model.relearning"],
    archiveMs: config["model.archive"],
  };
}

async function* allBodies(collection: Collection<ModelRecord>): AsyncIterable<PublishedBody> {
  let after: { value: string; id: string } | undefined;
  for (;;) {
    const page = await collection.find({ limit: PAGE, ...(after ? { after } : {}) });
    for (const { id, value } of page) yield publishedBody(id, value);
    const last = page.at(-1);
    if (!last || page.length < PAGE) return;
    after = { value: last.id, id: last.id };
  }
}

/** Starts model-service; the stack closes it. */
export async function startModelService(
  config: ConfigOf<typeof MODEL_SETTINGS>,
  stack: AsyncDisposableStack,
): Promise<RpcServer> {
  const runtime = await openRuntime("model", config, [], stack);
  const { store, clock, bus, signer, logger } = runtime;
  const durations = durationsOf(config);
  const collection = await store.collection(modelCollection((record) => dueMs(record, durations)));
  const fleet = new Fleet(await store.collection(NODES), await store.collection(CONTAINERS), clock);
  const changes = new FanOut<ModelChange>(WATCH_CAPACITY);
  const bucket = () => ensurePolicyBucket(bus);
  const publisher = stack.use(new HeadPublisher({ bucket, signer, clock, logger, all: () => allBodies(collection) }));
  const models = new Models({
    collection,
    clock,
    durations,
    onChange: (modelKey, model) => changes.send({ modelKey, model }),
    publish: (body) => publisher.publish(body),
    unpublish: (key) => void publisher.remove(key),
  });
  const observer = new Observer({ models, fleet, streams: new AgentStreams(), clock, durations });
  void publisher.reconcile();
  stack.use(
    clock.every(TICK_MS, async () => {
      await models.tick().catch((err: unknown) => logger.error({ err }, "the lifecycle clock failed"));
    }),
  );
  const deps = { collection, models, fleet, observer, changes, durations, clock };
  return stack.use(
    await listenRpc({
      host: config["listen.host"],
      port: config["listen.port"],
      credentials: runtime.credentials,
      roles: ROLE_TABLE,
      services: [ModelService, FleetService],
      logger,
      routes(router) {
        registerModelService(router, deps);
        registerFleetService(router, deps);
      },
    }),
  );
}

if (import.meta.main) await runService("model-service", MODEL_SETTINGS, startModelService);
