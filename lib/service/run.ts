import { parseArgs } from "node:util";
import { ConfigError, type ConfigOf, loadConfig, type Settings } from "../config/config.ts";
import { MissingCredentialsError } from "../pki/credentials.ts";
import type { RpcServer } from "../rpc/server.ts";
import { NewerSchemaError } from "../store/port.ts";
import { startTelemetry } from "../telemetry/tracing.ts";

/** How long everything together may take to close. */
const CLOSE_MS = 15_000;

/** Exit status of a process that was told wrongly how to run. */
export const EXIT_USAGE = 2;

function isForPeople(error: unknown): error is Error {
  const known = [ConfigError, NewerSchemaError, MissingCredentialsError].some((kind) => error instanceof kind);
  return known || (error as NodeJS.ErrnoException | undefined)?.code === "EADDRINUSE";
}

/** Waits for SIGTERM or SIGINT. Called before a process says that it is there: whoever reads that may end it in the same moment. */
export async function untilSignal(): Promise<NodeJS.Signals> {
  const { promise, resolve } = Promise.withResolvers<NodeJS.Signals>();
  // Kept after the first: a terminal and a parent may both send one, and the second must not cut the closing short.
  process.on("SIGTERM", resolve);
  process.on("SIGINT", resolve);
  return promise;
}

/** Reads the configuration of a process from `--config FILE`, the environment and `--set name=value`. */
export function readProcessConfig<S extends Settings>(settings: S): ConfigOf<S> {
  const { values } = parseArgs({ options: { config: { type: "string" }, set: { type: "string", multiple: true } } });
  const file = values.config === undefined ? {} : { file: values.config };
  return loadConfig(settings, { ...file, env: process.env, flags: values.set ?? [] });
}

/**
 * The life of a service process: reads its configuration, opens it, says where it listens, waits for a signal, closes everything in order within
 * one deadline. A configuration that cannot be used ends it with status 2 and all faults listed.
 */
export async function runService<S extends Settings>(
  name: string,
  settings: S,
  start: (config: ConfigOf<S>, stack: AsyncDisposableStack) => Promise<RpcServer>,
): Promise<void> {
  const stack = new AsyncDisposableStack();
  stack.use(await startTelemetry(name, process.env));
  try {
    const server = await start(readProcessConfig(settings), stack);
    const signalled = untilSignal();
    process.stderr.write(`${name} listens on ${server.url}\n`);
    await signalled;
    process.exitCode = 0;
  } catch (error) {
    if (!isForPeople(error)) throw error;
    process.stderr.write(`${name}: ${error.message}\n`);
    process.exitCode = EXIT_USAGE;
  }
  const timer = setTimeout(() => {
    process.stderr.write(`${name} did not close within ${CLOSE_MS / 1_000} s\n`);
    process.exit(1);
  }, CLOSE_MS);
  await stack.disposeAsync();
  clearTimeout(timer);
}
