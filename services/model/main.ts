import { z } from "zod";
import { DEFAULT_DURATIONS, type LifecycleDurations } from "#core/model/lifecycle.ts";
import { FleetService } from "#gen/gabion/fleet/v1/fleet_service_pb.ts";
import { ModelService } from "#gen/gabion/model/v1/model_service_pb.ts";
import { HeadPublisher, headOf } from "#lib/bus/head-publisher.ts";
import { ensurePolicyBucket } from "#lib/bus/policy-bucket.ts";
import { modelKeyOnBus } from "#lib/bus/topology.ts";
import { type ConfigOf, durationMs } from "#lib/config/config.ts";
import { FanOut } from "#lib/flow/fan-out.ts";
import { ROLE_TABLE } from "#lib/rpc/role-table.ts";
import { listenRpc, type RpcServer } from "#lib/rpc/server.ts";
import { AgentStreams } from "#lib/service/agent-streams.ts";
import { runService } from "#lib/service/run.ts";
import { openRuntime } from "#lib/service/runtime.ts";
import { SERVICE_PORTS, serviceSettings } from "#lib/service/settings.ts";
import { LEASES, Lease } from "#lib/store/lease.ts";
import { CONTAINERS, Fleet, NODES } from "./fleet.ts";
import { HISTORY, HistoryLog } from "./history.ts";
import { JOURNAL, JOURNAL_CONTAINERS, Journal } from "./journal.ts";
import { dueMs } from "./life.ts";
import { Models } from "./models.ts";
import { Observer } from "./observe.ts";
import { modelCollection } from "./record.ts";
import { type ModelChange, registerFleetService, registerModelService } from "./service.ts";
import { Summaries, summaryFields } from "./summary.ts";

const duration = (fallback: number, description: string) => ({ type: durationMs.default(fallback), description });

/** Settings of model-service. */
export const MODEL_SETTINGS = {
  ...serviceSettings(SERVICE_PORTS.model),
  "model.learning": duration(DEFAULT_DURATIONS.learningMs, "observed container time of learning"),
  "model.dryRun": duration(DEFAULT_DURATIONS.dryRunMs, "wall-clock time of the dry run"),
  "model.extendedLearning": duration(DEFAULT_DURATIONS.extendedLearningMs, "wall-clock time of extended learning"),
  "model.relearning": duration(DEFAULT_DURATIONS.relearningMs, "observed container time of relearning"),
  "model.extendAbove": {
    type: z.number().min(0).default(0),
    description:
      "keeps a section learning after its time while more new behaviours a day than this are to be expected (upper end of the 95 % interval); 0: time alone decides",
  },
  "model.extendFor": duration(7 * 24 * 3_600_000, "observed container time after which learning ends all the same"),
  "model.carryOver": {
    type: z.boolean().default(false),
    description:
      "gives a new digest of an image the items of the digest before, marked as inherited until they are seen",
  },
  "model.nodeLease": duration(
    10 * 60_000,
    "time after which the containers of a node that says nothing count as ended",
  ),
  "model.journal": duration(7 * 24 * 3_600_000, "time that is kept of what happened, for trying rules on it"),
  "model.archive": duration(DEFAULT_DURATIONS.archiveMs, "time that an archived model is kept"),
};

const TICK_MS = 250;
const CLOCK_LEASE_MS = 5_000;
const SWEEP_MS = 30_000;
const WATCH_CAPACITY = 1_000;

function durationsOf(config: ConfigOf<typeof MODEL_SETTINGS>): LifecycleDurations {
  return {
    learningMs: config["model.learning"],
    dryRunMs: config["model.dryRun"],
    extendedLearningMs: config["model.extendedLearning"],
    relearningMs: config["model.relearning"],
    archiveMs: config["model.archive"],
    ...(config["model.extendAbove"] > 0
      ? { extension: { maxNewPerDay: config["model.extendAbove"], maxMs: config["model.extendFor"] } }
      : {}),
  };
}

/** Starts model-service; the stack closes it. */
export async function startModelService(
  config: ConfigOf<typeof MODEL_SETTINGS>,
  stack: AsyncDisposableStack,
): Promise<RpcServer> {
  const runtime = await openRuntime("model", config, [], stack);
  const { store, clock, bus, signer, logger } = runtime;
  const durations = durationsOf(config);
  const collection = await store.collection(
    modelCollection(
      (record) => dueMs(record, durations),
      (record) => summaryFields(record, durations),
    ),
  );
  const summaries = new Summaries(collection, durations);
  const fleet = new Fleet(await store.collection(NODES), await store.collection(CONTAINERS), clock);
  const changes = new FanOut<ModelChange>(WATCH_CAPACITY);
  const history = new HistoryLog(await store.collection(HISTORY));
  const bucket = () => ensurePolicyBucket(bus);
  const publisher = stack.use(
    new HeadPublisher({ bucket, signer, clock, logger, all: () => summaries.heads(modelKeyOnBus) }),
  );
  const models = new Models({
    collection,
    clock,
    durations,
    onChange: (modelKey, model) => changes.send({ modelKey, model }),
    publish: (body) => publisher.publish(headOf(body)),
    unpublish: (key) => void publisher.remove(key),
    history,
    carriesOver: config["model.carryOver"],
    logger,
  });
  const journalRecords = await store.collection(JOURNAL);
  const journal = new Journal(journalRecords, await store.collection(JOURNAL_CONTAINERS), clock);
  const observer = new Observer({ models, fleet, journal, streams: new AgentStreams(), clock, durations });
  const lease = new Lease(await store.collection(LEASES), "model-clock", clock);
  void publisher.reconcile();
  // Not before every node had the time to say that it is there.
  let nextSweepMs = clock.now() + config["model.nodeLease"];
  // At the end there may be nobody to give it back to; it ends by itself.
  stack.defer(() => lease.release().catch(() => {}));
  stack.use(
    clock.every(TICK_MS, async () => {
      try {
        // One replica is enough; revisions make two harmless.
        if (!(await lease.hold(CLOCK_LEASE_MS))) return;
        await models.tick();
        if (clock.now() >= nextSweepMs) {
          nextSweepMs = clock.now() + Math.min(SWEEP_MS, config["model.nodeLease"] / 2);
          await journal.sweep(config["model.journal"]);
          await fleet.endLost(config["model.nodeLease"], (container) => observer.forget(container));
        }
      } catch (err) {
        logger.error({ err }, "the lifecycle clock failed");
      }
    }),
  );
  const deps = {
    journal,
    journalRecords,
    collection,
    summaries,
    history,
    models,
    fleet,
    observer,
    changes,
    durations,
    clock,
  };
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
