import { type ChildProcess, spawn } from "node:child_process";
import { createServer } from "node:net";
import type { Logger } from "../telemetry/log.ts";

/** A NATS server that this process started, for an installation on one machine and for tests. */
export interface BusServer extends AsyncDisposable {
  readonly pid: number;
  /** Resolves when the process is gone. */
  readonly ended: Promise<void>;
}

const READY_TIMEOUT_MS = 15_000;
const STOP_TIMEOUT_MS = 5_000;

/** A port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function ready(process: ChildProcess, lines: string[]): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(() => reject(new Error(`nats-server is not ready after 15 s: ${lines.join("\n")}`)), READY_TIMEOUT_MS);
  process.stderr?.on("data", (chunk: Buffer) => {
    lines.push(chunk.toString("utf8"));
    if (lines.length > 50) lines.shift();
    if (lines.join("").includes("Server is ready")) resolve();
  });
  process.once("error", (error) => reject(new Error(`cannot start nats-server: ${error.message}`)));
  process.once("exit", (code) => reject(new Error(`nats-server ended with status ${code}: ${lines.join("")}`)));
  try {
    await promise;
  } finally {
    clearTimeout(timer);
  }
}

/** Starts nats-server with a configuration file and waits until it is ready. */
export async function startBusServer(binary: string, configFile: string, logger: Logger): Promise<BusServer> {
  const process = spawn(binary, ["-c", configFile], { stdio: ["ignore", "ignore", "pipe"] });
  const ended = new Promise<void>((resolve) => {
    process.once("exit", () => resolve());
    process.once("error", () => resolve());
  });
  await ready(process, []);
  process.removeAllListeners("exit");
  process.once("exit", (code) => logger.info({ code }, "nats-server ended"));
  const gone = new Promise<void>((resolve) => process.once("exit", () => resolve()));
  return {
    pid: process.pid ?? 0,
    ended: Promise.race([ended, gone]),
    async [Symbol.asyncDispose]() {
      if (process.exitCode !== null || process.signalCode !== null) return;
      process.kill("SIGTERM");
      const timer = setTimeout(() => process.kill("SIGKILL"), STOP_TIMEOUT_MS);
      await gone;
      clearTimeout(timer);
    },
  };
}
