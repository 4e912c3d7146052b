import { z } from "zod";
import type { Audit } from "#gen/gabion/audit/v1/audit_pb.ts";
import { AuditService } from "#gen/gabion/audit/v1/audit_service_pb.ts";
import { type ConfigOf, durationMs } from "#lib/config/config.ts";
import { FanOut } from "#lib/flow/fan-out.ts";
import { ROLE_TABLE } from "#lib/rpc/role-table.ts";
import { listenRpc, type RpcServer } from "#lib/rpc/server.ts";
import { AgentStreams } from "#lib/service/agent-streams.ts";
import { runService } from "#lib/service/run.ts";
import { openRuntime } from "#lib/service/runtime.ts";
import { SERVICE_PORTS, serviceSettings } from "#lib/service/settings.ts";
import { AUDITS, Audits } from "./audits.ts";
import { sweepAudits } from "./retention.ts";
import { AGENT_RUNS, AgentRuns } from "./runs.ts";
import { registerAuditService } from "./service.ts";
import { VERDICTS, Verdicts } from "./verdicts.ts";

const DAY_MS = 86_400_000;

/** Settings of audit-service. */
export const AUDIT_SETTINGS = {
  ...serviceSettings(SERVICE_PORTS.audit),
  "audit.maxCount": { type: z.number().int().min(1_000).default(1_000_000), description: "audits kept, at least 1000" },
  "audit.maxAge": { type: durationMs.default(90 * DAY_MS), description: "age after which audits go" },
};

const WATCH_CAPACITY = 10_000;
const RETRY_MS = 1_000;
const SWEEP_MS = 60_000;

/** Starts audit-service; the stack closes it. */
export async function startAuditService(
  config: ConfigOf<typeof AUDIT_SETTINGS>,
  stack: AsyncDisposableStack,
): Promise<RpcServer> {
  const { store, clock, bus, signer, logger, credentials } = await openRuntime("audit", config, [], stack);
  const collection = await store.collection(AUDITS);
  const live = new FanOut<Audit>(WATCH_CAPACITY);
  const audits = new Audits(collection, live, clock);
  const runs = new AgentRuns(await store.collection(AGENT_RUNS), audits);
  const verdicts = new Verdicts({ collection: await store.collection(VERDICTS), bus, signer, clock, logger });
  const limits = { maxCount: config["audit.maxCount"], maxAgeMs: config["audit.maxAge"] };
  const logged = (what: string) => (err: unknown) => void logger.warn({ err }, what);
  stack.use(clock.every(RETRY_MS, () => verdicts.retry().catch(logged("verdicts not published yet"))));
  stack.use(
    clock.every(SWEEP_MS, async () => {
      await sweepAudits(collection, limits, clock).catch(logged("retention failed"));
    }),
  );
  const onDurable = (durable: readonly Audit[]) => verdicts.settle(durable).catch(logged("verdict not settled"));
  return stack.use(
    await listenRpc({
      host: config["listen.host"],
      port: config["listen.port"],
      credentials,
      roles: ROLE_TABLE,
      services: [AuditService],
      logger,
      routes: (router) =>
        registerAuditService(router, {
          collection,
          live,
          audits,
          runs,
          verdicts,
          clock,
          streams: new AgentStreams(),
          onDurable,
        }),
    }),
  );
}

if (import.meta.main) await runService("audit-service", AUDIT_SETTINGS, startAuditService);
