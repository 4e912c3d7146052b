import { IntelService } from "#gen/gabion/intel/v1/intel_service_pb.ts";
import type { ConfigOf } from "#lib/config/config.ts";
import { ROLE_TABLE } from "#lib/rpc/role-table.ts";
import { listenRpc, type RpcServer } from "#lib/rpc/server.ts";
import { runService } from "#lib/service/run.ts";
import { openRuntime } from "#lib/service/runtime.ts";
import { SERVICE_PORTS, serviceSettings } from "#lib/service/settings.ts";
import { INDICATORS, registerIntelService } from "./service.ts";

/** Settings of intel-service. */
export const INTEL_SETTINGS = serviceSettings(SERVICE_PORTS.intel);

/** Starts intel-service; the stack closes it. */
export async function startIntelService(
  config: ConfigOf<typeof INTEL_SETTINGS>,
  stack: AsyncDisposableStack,
): Promise<RpcServer> {
  const { store, clock, credentials, logger } = await openRuntime("intel", config, [], stack);
  const indicators = await store.collection(INDICATORS);
  return stack.use(
    await listenRpc({
      host: config["listen.host"],
      port: config["listen.port"],
      credentials,
      roles: ROLE_TABLE,
      services: [IntelService],
      logger,
      routes: (router) => registerIntelService(router, { indicators, clock }),
    }),
  );
}

if (import.meta.main) await runService("intel-service", INTEL_SETTINGS, startIntelService);
