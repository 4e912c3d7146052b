import { spawn } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { z } from "zod";
import { startBusServer } from "#lib/bus/server.ts";
import { ConfigError, loadConfig, type Settings } from "#lib/config/config.ts";
import { AGENT_RUNTIME } from "#lib/service/agent-runtime.ts";
import { prepareInstallation } from "#lib/service/installation.ts";
import { EXIT_USAGE, untilSignal } from "#lib/service/run.ts";
import { SERVICE_PORTS } from "#lib/service/settings.ts";
import { createLogger } from "#lib/telemetry/log.ts";
import { startTelemetry } from "#lib/telemetry/tracing.ts";
import { AUDIT_SETTINGS, startAuditService } from "../audit/main.ts";
import { INTEL_SETTINGS, startIntelService } from "../intel/main.ts";
import { MODEL_SETTINGS, startModelService } from "../model/main.ts";
import { RULE_SETTINGS, startRuleService } from "../rule/main.ts";

const port = (fallback: number) => z.number().int().min(0).max(65_535).default(fallback);

/** Settings of everything on one machine. Those of the services' own are given as `model.learning` and so on. */
const SETTINGS = {
  "data.directory": { type: z.string().default("data"), description: "folder of all data" },
  "mongodb.url": { type: z.string().default(""), description: "connection string; empty for the embedded store" },
  "node.id": { type: z.string().default("local"), description: "identity of this node" },
  // Not NATS's own 4222: Debian's package may have started a server there.
  "nats.port": { type: port(7422), description: "port of the NATS server that is started" },
  "nats.binary": { type: z.string().default("nats-server"), description: "the NATS server" },
  "model.port": { type: port(SERVICE_PORTS.model), description: "port of model-service" },
  "rule.port": { type: port(SERVICE_PORTS.rule), description: "port of rule-service" },
  "intel.port": { type: port(SERVICE_PORTS.intel), description: "port of intel-service" },
  "audit.port": { type: port(SERVICE_PORTS.audit), description: "port of audit-service" },
  "log.level": { type: z.enum(["trace", "debug", "info", "warn", "error"]).default("warn"), description: "log level" },
} satisfies Settings;

const AGENT_STOP_MS = 10_000;

function settingOf(flag: string): string {
  return flag.slice(0, Math.max(0, flag.indexOf("=")));
}

/** Flags that a part knows; each flag must be known to one part at least. */
function flagsFor(settings: Settings, flags: readonly string[]): string[] {
  return flags.filter((flag) => settingOf(flag) in settings);
}

function unknownFlags(flags: readonly string[]): string[] {
  const parts: Settings[] = [SETTINGS, MODEL_SETTINGS, RULE_SETTINGS, INTEL_SETTINGS, AUDIT_SETTINGS];
  return flags.filter(
    (flag) => !settingOf(flag).startsWith("agent.") && !parts.some((part) => settingOf(flag) in part),
  );
}

/** Says that a part has ended by itself; everything then ends with a failure, so that a supervisor starts it again. */
type OnLost = (what: string) => void;

/** Starts the agent as a process of its own; disposing ends it and waits. */
function startAgentProcess(flags: readonly string[], onLost: OnLost): AsyncDisposable {
  const root = resolve(import.meta.dirname, "../..");
  const args = [...AGENT_RUNTIME.flags, join(root, "agent/main.ts"), ...flags.flatMap((flag) => ["--set", flag])];
  const env = { ...process.env, ...AGENT_RUNTIME.env };
  const child = spawn(process.execPath, args, { stdio: ["ignore", "inherit", "inherit"], cwd: root, env });
  let isEnding = false;
  const ended = new Promise<void>((done) => child.once("exit", () => done()));
  void ended.then(() => {
    if (!isEnding) onLost("the agent");
  });
  return {
    async [Symbol.asyncDispose]() {
      isEnding = true;
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), AGENT_STOP_MS);
      await ended;
      clearTimeout(timer);
    },
  };
}

/** Starts everything that Gabion needs on one machine, in the order in which each part needs the one before. */
async function startAll(flags: readonly string[], stack: AsyncDisposableStack, onLost: OnLost): Promise<void> {
  const unknown = unknownFlags(flags);
  if (unknown.length > 0) throw new ConfigError(unknown.map((flag) => `flag \`${flag}\`: no such setting`));
  const config = loadConfig(SETTINGS, { env: process.env, flags: flagsFor(SETTINGS, flags) });
  const data = resolve(config["data.directory"]);
  const pki = join(data, "pki");
  mkdirSync(data, { recursive: true, mode: 0o700 });
  const logger = createLogger("all-in-one", config["log.level"]);
  const nats = { natsDirectory: join(data, "nats"), natsHost: "127.0.0.1", natsPort: config["nats.port"] };
  const natsConfig = await prepareInstallation({ pkiDirectory: pki, ...nats, nodeIds: [config["node.id"]] });
  const binary =
    existsSync("/usr/sbin/nats-server") && config["nats.binary"] === "nats-server"
      ? "/usr/sbin/nats-server"
      : config["nats.binary"];
  const bus = stack.use(await startBusServer(binary, natsConfig, logger));
  void bus.ended.then((reason) => {
    if (!stack.disposed) onLost(`the NATS server (${reason})`);
  });
  const servers = `127.0.0.1:${config["nats.port"]}`;
  const shared = [
    `data.directory=${data}`,
    `pki.directory=${pki}`,
    `nats.servers=${servers}`,
    `log.level=${config["log.level"]}`,
  ];
  const load = <S extends Settings>(settings: S, listen: number, more: readonly string[] = []) =>
    loadConfig(settings, {
      env: process.env,
      flags: [...flagsFor(settings, flags), ...shared, `listen.port=${listen}`, ...more],
    });
  const model = (await startModelService(load(MODEL_SETTINGS, config["model.port"]), stack)).url;
  const audit = (await startAuditService(load(AUDIT_SETTINGS, config["audit.port"]), stack)).url;
  const intel = (await startIntelService(load(INTEL_SETTINGS, config["intel.port"]), stack)).url;
  const ofRule = [`model.url=${model}`, `audit.url=${audit}`, `intel.url=${intel}`];
  const endpoints = {
    model,
    rule: (await startRuleService(load(RULE_SETTINGS, config["rule.port"], ofRule), stack)).url,
    intel,
    audit,
  };
  writeFileSync(join(data, "endpoints.json"), `${JSON.stringify(endpoints, null, 2)}\n`);
  const urls = (["model", "rule", "intel", "audit"] as const).map((name) => `${name}.url=${endpoints[name]}`);
  const own = [
    `node.id=${config["node.id"]}`,
    `pki.directory=${pki}`,
    `nats.servers=${servers}`,
    `log.level=${config["log.level"]}`,
  ];
  const agentFlags = flags.filter((flag) => flag.startsWith("agent."));
  stack.use(startAgentProcess([`agent.dataDirectory=${join(data, "agent")}`, ...own, ...urls, ...agentFlags], onLost));
  for (const [name, url] of Object.entries(endpoints)) process.stderr.write(`${name}-service listens on ${url}\n`);
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { set: { type: "string", multiple: true } } });
  const stack = new AsyncDisposableStack();
  stack.use(await startTelemetry("gabion", process.env));
  try {
    const signalled = untilSignal();
    const lost = Promise.withResolvers<string>();
    await startAll(values.set ?? [], stack, lost.resolve);
    const reason = await Promise.race([signalled, lost.promise]);
    if (!reason.startsWith("SIG")) {
      process.stderr.write(`gabion: ${reason} ended by itself; ending the rest\n`);
      process.exitCode = 1;
    }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (!(error instanceof ConfigError) && code !== "EADDRINUSE" && !message.startsWith("nats-server")) throw error;
    process.stderr.write(`gabion: ${message}\n`);
    process.exitCode = EXIT_USAGE;
  } finally {
    await stack.disposeAsync();
  }
}
