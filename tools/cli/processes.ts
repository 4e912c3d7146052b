import { spawn } from "node:child_process";
import { constants } from "node:os";
import { join, resolve } from "node:path";
import type { Command } from "commander";
import { AGENT_RUNTIME } from "#lib/service/agent-runtime.ts";
import { prepareInstallation } from "#lib/service/installation.ts";
import { CommandError } from "./connection.ts";
import { print } from "./output.ts";
import type { Shared } from "./shared.ts";

const ROOT = resolve(import.meta.dirname, "../..");
const PLAIN_RUNTIME: { readonly flags: readonly string[]; readonly env: NodeJS.ProcessEnv } = { flags: [], env: {} };
/** What a shell adds to the number of the signal that ended a program. */
const SIGNALLED = 128;
const SERVICES = ["model", "rule", "intel", "audit"];

/** Runs a program of the project in the foreground; its exit status becomes the command's. */
async function runForeground(program: string, flags: readonly string[], runtime = PLAIN_RUNTIME): Promise<void> {
  const args = [...runtime.flags, join(ROOT, program), ...flags.flatMap((flag) => ["--set", flag])];
  const child = spawn(process.execPath, args, { stdio: "inherit", env: { ...process.env, ...runtime.env } });
  // A terminal sends SIGINT to the whole group by itself.
  process.on("SIGINT", () => {});
  process.on("SIGTERM", (signal) => void child.kill(signal));
  process.exitCode = await new Promise<number>((done) =>
    child.once("exit", (code, signal) => done(code ?? SIGNALLED + (signal ? constants.signals[signal] : 0))),
  );
}

function collect(value: string, before: string[]): string[] {
  return [...before, value];
}

function withSettings(command: Command): Command {
  return command.option("--set <name=value>", "a setting, repeatable; see README", collect, []);
}

/** Adds `gabion up`, `gabion service`, `gabion agent` and `gabion pki`. */
export function addProcessCommands(program: Command): void {
  withSettings(program.command("up").description("start everything on this machine: bus, services, agent")).action(
    async (options: { set: string[] }, command: Command) => {
      const { data } = command.optsWithGlobals<Shared>();
      await runForeground("services/all-in-one/main.ts", [`data.directory=${resolve(data)}`, ...options.set]);
    },
  );
  withSettings(
    program.command("service <name>").description(`run one service as a process: ${SERVICES.join(", ")}`),
  ).action(async (name: string, options: { set: string[] }) => {
    if (!SERVICES.includes(name)) throw new CommandError(`service \`${name}\` must be one of ${SERVICES.join(", ")}`);
    await runForeground(`services/${name}/main.ts`, options.set);
  });
  withSettings(program.command("agent").description("run the agent of this node")).action(
    async (options: { set: string[] }) => {
      await runForeground("agent/main.ts", options.set, AGENT_RUNTIME);
    },
  );
  const pki = program.command("pki").description("certificates and keys of an installation");
  pki
    .command("init")
    .description("make authority, certificates, keys and the NATS server's configuration")
    .option("--node <id>", "a node, repeatable", collect, [])
    .option("--host <name>", "a name or address that servers are reached by, repeatable", collect, [])
    .option("--nats-host <address>", "address that NATS listens on", "127.0.0.1")
    .option("--nats-port <port>", "port that NATS listens on", Number, 4222)
    .action(
      async (options: { node: string[]; host: string[]; natsHost: string; natsPort: number }, command: Command) => {
        const { data } = command.optsWithGlobals<Shared>();
        const config = await prepareInstallation({
          pkiDirectory: join(resolve(data), "pki"),
          natsDirectory: join(resolve(data), "nats"),
          natsHost: options.natsHost,
          natsPort: options.natsPort,
          nodeIds: options.node,
          hosts: options.host,
        });
        print(`keys and certificates are in ${join(resolve(data), "pki")}; start NATS with ${config}`);
      },
    );
}
