import { z } from "zod";
import { loadExpressionLanguage } from "#core/policy/custom-rules.ts";
import { RuleService } from "#gen/gabion/rule/v1/rule_service_pb.ts";
import { HeadPublisher, headOf, type PublishedHead } from "#lib/bus/head-publisher.ts";
import { ensurePolicyBucket } from "#lib/bus/policy-bucket.ts";
import type { ConfigOf } from "#lib/config/config.ts";
import { createRpcClient } from "#lib/rpc/client.ts";
import { ROLE_TABLE } from "#lib/rpc/role-table.ts";
import { listenRpc, type RpcServer } from "#lib/rpc/server.ts";
import { runService } from "#lib/service/run.ts";
import { openRuntime } from "#lib/service/runtime.ts";
import { SERVICE_PORTS, serviceSettings } from "#lib/service/settings.ts";
import { createFleetView } from "./fleet-view.ts";
import { RULE_HITS, RuleHits } from "./hits.ts";
import { createIntelView } from "./intel-view.ts";
import { createStoppedBy, RollOuts } from "./roll-outs.ts";
import { RULE_CHANGES, RULESETS, Rules } from "./rules.ts";
import { publishedRuleset } from "./ruleset.ts";
import { registerRuleService } from "./service.ts";

/** Settings of rule-service. */
export const RULE_SETTINGS = {
  ...serviceSettings(SERVICE_PORTS.rule),
  "model.url": {
    type: z.string().default(`https://127.0.0.1:${SERVICE_PORTS.model}`),
    description: "model-service, which knows nodes, containers and what happened",
  },
  "intel.url": {
    type: z.string().default(`https://127.0.0.1:${SERVICE_PORTS.intel}`),
    description: "intel-service, which knows what is bad: for explanations and simulations",
  },
  "audit.url": {
    type: z.string().default(`https://127.0.0.1:${SERVICE_PORTS.audit}`),
    description: "audit-service, which knows what roll-outs stopped",
  },
};

const ROLL_OUTS_MS = 5_000;

/** Starts rule-service; the stack closes it. */
export async function startRuleService(
  config: ConfigOf<typeof RULE_SETTINGS>,
  stack: AsyncDisposableStack,
): Promise<RpcServer> {
  const runtime = await openRuntime("rule", config, [], stack);
  const { store, clock, bus, signer, logger } = runtime;
  const rulesets = await store.collection(RULESETS);
  const changes = await store.collection(RULE_CHANGES);
  async function* all(): AsyncIterable<PublishedHead> {
    yield headOf(publishedRuleset(await rules.current()));
  }
  const publisher = stack.use(new HeadPublisher({ bucket: () => ensurePolicyBucket(bus), signer, clock, logger, all }));
  const rules = new Rules({ rulesets, changes, clock, publish: (body) => publisher.publish(headOf(body)) });
  await rules.completeHistory();
  await loadExpressionLanguage();
  const connect = (url: string, expects: string) =>
    stack.use(createRpcClient({ url, credentials: runtime.credentials, expects }));
  const fleet = createFleetView(connect(config["model.url"], "service/model"));
  const intel = createIntelView(connect(config["intel.url"], "service/intel"), clock);
  const hits = new RuleHits(await store.collection(RULE_HITS));
  const stoppedBy = createStoppedBy(connect(config["audit.url"], "service/audit"));
  const rollOuts = new RollOuts({ rules, fleet, stoppedBy, clock });
  stack.use(
    clock.every(ROLL_OUTS_MS, () =>
      rollOuts.check().catch((err: unknown) => logger.warn({ err }, "roll-outs not looked at")),
    ),
  );
  void publisher.reconcile();
  return stack.use(
    await listenRpc({
      host: config["listen.host"],
      port: config["listen.port"],
      credentials: runtime.credentials,
      roles: ROLE_TABLE,
      services: [RuleService],
      logger,
      routes: (router) => registerRuleService(router, { rules, changes, clock, fleet, intel, hits }),
    }),
  );
}

if (import.meta.main) await runService("rule-service", RULE_SETTINGS, startRuleService);
