import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { createClient } from "@connectrpc/connect";
import { compileIntel } from "#core/intel/intel-set.ts";
import { DEFAULT_TREATMENT } from "#core/policy/treatment.ts";
import { AuditService } from "#gen/gabion/audit/v1/audit_service_pb.ts";
import { IntelService } from "#gen/gabion/intel/v1/intel_service_pb.ts";
import { ModelService } from "#gen/gabion/model/v1/model_service_pb.ts";
import { RuleService } from "#gen/gabion/rule/v1/rule_service_pb.ts";
import { openBus } from "#lib/bus/connection.ts";
import { ConfigError } from "#lib/config/config.ts";
import { systemClock } from "#lib/flow/clock.ts";
import { MissingCredentialsError, readCredentials } from "#lib/pki/credentials.ts";
import { createSignatureCheck } from "#lib/pki/signing.ts";
import { createRpcClient } from "#lib/rpc/client.ts";
import { EXIT_USAGE, readProcessConfig, untilSignal } from "#lib/service/run.ts";
import { readBusSeed, readTrust } from "#lib/service/secrets.ts";
import { gabionVersion } from "#lib/service/version.ts";
import { createLogger } from "#lib/telemetry/log.ts";
import { startTelemetry } from "#lib/telemetry/tracing.ts";
import { Agent } from "./agent.ts";
import { toCapabilities } from "./capabilities.ts";
import { bootId, cgroupMount, defaultNodeId } from "./node-identity.ts";
import { AppliedRevisions } from "./policy/applied-revisions.ts";
import { PolicyCache } from "./policy/policy-cache.ts";
import { PolicySource } from "./policy/policy-source.ts";
import { RuleHits } from "./policy/rule-hits.ts";
import { VerdictSource } from "./policy/verdict-source.ts";
import { AGENT_SETTINGS, type AgentConfig, detectorSettings } from "./settings.ts";
import { StaticAnalyst } from "./static/analyst.ts";
import { openAuditUplink, openObservationUplink, type Speaker } from "./uplink/streams.ts";

/** How long what is still to be sent may take at the end. */
const DRAIN_MS = 3_000;

/** A running agent, for those who started it. */
export interface RunningAgent {
  readonly nodeId: string;
  readonly agent: Agent;
  /** Why there is no sensor; empty where one runs. */
  readonly sensorFault: string;
}

/** Starts the agent; the stack closes it. Without a sensor it goes on and says so. */
export async function startAgent(config: AgentConfig, stack: AsyncDisposableStack): Promise<RunningAgent> {
  const logger = createLogger("agent", config["log.level"]);
  const nodeId = config["node.id"] || defaultNodeId();
  const pki = config["pki.directory"];
  const identity = `node/${nodeId}`;
  const credentials = readCredentials(pki, identity);
  const connect = (url: string, expects: string) => stack.use(createRpcClient({ url, credentials, expects }));
  const modelRpc = connect(config["model.url"], "service/model");
  const auditRpc = connect(config["audit.url"], "service/audit");
  const models = createClient(ModelService, modelRpc.transport);
  const rules = createClient(RuleService, connect(config["rule.url"], "service/rule").transport);
  const intel = createClient(IntelService, connect(config["intel.url"], "service/intel").transport);
  const auditClient = createClient(AuditService, auditRpc.transport);
  const bus = stack.use(
    openBus({
      servers: config["nats.servers"].split(","),
      credentials,
      seed: readBusSeed(pki, identity),
      name: identity,
      logger,
    }),
  );
  let sensorFault = "";
  const speaker: Speaker = {
    nodeId,
    bootId: bootId(),
    runId: randomUUID(),
    version: gabionVersion(),
    capabilities: () => toCapabilities(agent.sensorHello, sensorFault),
    hasSensor: () => agent.sensorHello !== undefined,
  };
  const audits = stack.use(openAuditUplink(auditClient, auditRpc.reset, speaker, logger));
  const observations = stack.use(openObservationUplink(models, modelRpc.reset, speaker, logger));
  const applied = new AppliedRevisions(join(config["agent.dataDirectory"], "applied.json"));
  const check = createSignatureCheck(readTrust(pki));
  const hits = stack.use(
    new RuleHits({ runId: speaker.runId, clock: systemClock, send: (request) => rules.reportRuleHits(request) }),
  );
  const agent = new Agent({
    nodeId,
    cluster: config["agent.cluster"],
    runId: speaker.runId,
    bootId: speaker.bootId,
    scope: config["agent.scope"],
    cgroupMount: cgroupMount() ?? "/sys/fs/cgroup",
    holdMs: config["agent.hold"],
    holdsAll: config["agent.holdAll"],
    isMeasuring: config["agent.measure"],
    runcRoots: config["agent.runcRoots"].split(","),
    runcBinary: config["agent.runcBinary"],
    sensorBinary: config["agent.sensorBinary"],
    internalRanges: config["agent.internalRanges"],
    spanMs: config["agent.span"],
    detectors: detectorSettings(config),
    treatment: { ...DEFAULT_TREATMENT, liftsDryRunCap: config["agent.liftDryRunCap"] },
    clock: systemClock,
    logger,
    modelFor: (container, signal) => source.modelFor(container, signal),
    sendAudit: (audit) => audits.push(audit),
    sendObservation: (observation) => observations.push(observation),
    onDecision: (ruleId, decision, section, count) => hits.note(ruleId, decision, section, count),
  });
  const analyst = new StaticAnalyst({
    models,
    bundleOf: ({ containerId }) => agent.containers.byId(containerId)?.identified.bundle,
    logger,
  });
  const source = new PolicySource({
    bus,
    check,
    models,
    rules,
    intel,
    applied,
    cache: new PolicyCache(join(config["agent.dataDirectory"], "policy")),
    clock: systemClock,
    logger,
    sectionsOf: (container) => agent.sectionsOf(container),
    containers: () => agent.containers.all().map((container) => container.message),
    revisionOf: ({ containerId }) => agent.containers.byId(containerId)?.model?.revision ?? 0n,
    onRuleset: (ruleset) => agent.applyRuleset(ruleset),
    onModel: (model) => agent.applyModel(model),
    onUnanalysed: (container) => analyst.request(container),
    onIntel: (set) => agent.applyIntel(compileIntel(set, systemClock.now())),
  });
  stack.defer(() => end(agent, audits, observations));
  const cached = source.cachedRuleset();
  if (cached) await agent.applyRuleset(cached);
  const cachedIntel = source.cachedIntel();
  if (cachedIntel) await agent.applyIntel(compileIntel(cachedIntel, systemClock.now()));
  await source.fetchIntel().catch((err: unknown) => logger.warn({ err }, "intelligence not fetched yet"));
  await source.fetchRuleset().catch((err: unknown) => logger.warn({ err }, "rule set not fetched yet"));
  stack.use(source);
  try {
    await agent.start();
  } catch (error) {
    sensorFault = (error as Error).message;
    logger.error({ reason: sensorFault }, "no sensor: nothing is seen or enforced on this node");
  }
  // From here on the hello can say what the sensor can do.
  audits.start();
  observations.start();
  agent.audits.writeSystem({
    name: "agent_started",
    message: sensorFault === "" ? "the agent started" : `the agent started without a sensor: ${sensorFault}`,
    isSuccess: sensorFault === "",
  });
  stack.use(
    new VerdictSource({
      bus,
      nodeId,
      check,
      applied,
      clock: systemClock,
      logger,
      onVerdict: (verdict) => agent.carryOut(verdict),
    }),
  );
  return { nodeId, agent, sensorFault };
}

/** Ends in order: what was seen is sent, and the last audit says that nothing after it is missing. */
async function end(
  agent: Agent,
  audits: { drain: (ms: number) => Promise<boolean> },
  observations: { drain: (ms: number) => Promise<boolean> },
): Promise<void> {
  await agent[Symbol.asyncDispose]();
  agent.audits.writeSystem({ name: "agent_stopped", message: "the agent stopped in order" });
  await Promise.all([audits.drain(DRAIN_MS), observations.drain(DRAIN_MS)]);
}

if (import.meta.main) {
  await using stack = new AsyncDisposableStack();
  stack.use(await startTelemetry("agent", process.env));
  try {
    const config = readProcessConfig(AGENT_SETTINGS);
    const { nodeId, sensorFault } = await startAgent(config, stack);
    const what = sensorFault === "" ? `watches ${config["agent.scope"]}` : `has no sensor: ${sensorFault}`;
    const signalled = untilSignal();
    process.stderr.write(`agent of node ${nodeId} ${what}\n`);
    await signalled;
  } catch (error) {
    if (!(error instanceof ConfigError) && !(error instanceof MissingCredentialsError)) throw error;
    process.stderr.write(`agent: ${error.message}\n`);
    process.exitCode = EXIT_USAGE;
  }
}
