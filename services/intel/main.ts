import { IntelService } from "#gen/gabion/intel/v1/intel_service_pb.ts";
import { HeadPublisher, headOf, type PublishedHead } from "#lib/bus/head-publisher.ts";
import { ensurePolicyBucket } from "#lib/bus/policy-bucket.ts";
import type { ConfigOf } from "#lib/config/config.ts";
import { ROLE_TABLE } from "#lib/rpc/role-table.ts";
import { listenRpc, type RpcServer } from "#lib/rpc/server.ts";
import { runService } from "#lib/service/run.ts";
import { openRuntime } from "#lib/service/runtime.ts";
import { SERVICE_PORTS, serviceSettings } from "#lib/service/settings.ts";
import { INTEL_SETS, IntelSets, publishedIntelSet } from "./intel-set.ts";
import { INDICATORS, registerIntelService } from "./service.ts";

/** Settings of intel-service. */
export const INTEL_SETTINGS = serviceSettings(SERVICE_PORTS.intel);

/** Starts intel-service; the stack closes it. */
export async function startIntelService(
  config: ConfigOf<typeof INTEL_SETTINGS>,
  stack: AsyncDisposableStack,
): Promise<RpcServer> {
  const { store, clock, credentials, logger, bus, signer } = await openRuntime("intel", config, [], stack);
  const indicators = await store.collection(INDICATORS);
  const sets = await store.collection(INTEL_SETS);
  async function* all(): AsyncIterable<PublishedHead> {
    yield headOf(publishedIntelSet(await intelSets.current()));
  }
  const publisher = stack.use(new HeadPublisher({ bucket: () => ensurePolicyBucket(bus), signer, clock, logger, all }));
  const intelSets = new IntelSets({ indicators, sets, clock, publish: (body) => publisher.publish(headOf(body)) });
  // A set that an end in between left behind, or that holds what has expired since.
  await intelSets.refresh();
  void publisher.reconcile();
  return stack.use(
    await listenRpc({
      host: config["listen.host"],
      port: config["listen.port"],
      credentials,
      roles: ROLE_TABLE,
      services: [IntelService],
      logger,
      routes: (router) => registerIntelService(router, { indicators, intelSets, clock }),
    }),
  );
}

if (import.meta.main) await runService("intel-service", INTEL_SETTINGS, startIntelService);
