import { type ChildProcess, spawn } from "node:child_process";
import { createServer } from "node:net";
import type { Logger } from "../telemetry/log.ts";

/** A NATS server that this process started, for an installation on one machine and for tests. */
export interface BusServer extends AsyncDisposable {
  readonly pid: number;
  /** Resolves with the reason when the process is gone. */
  readonly ended: Promise<string>;
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

/** What went wrong, out of all that the server wrote. */
function whyOf(said: string): string {
  const faults = said.split("\n").flatMap((line) => /\[(?:FTL|ERR)\] (.*)/.exec(line)?.[1] ?? []);
  return faults.join("; ") || (said.includes("[INF]") ? "" : said.trim());
}

async function ready(process: ChildProcess, gone: Promise<string>): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(() => reject(new Error("nats-server is not ready after 15 s")), READY_TIMEOUT_MS);
  let said = "";
  process.stderr?.on("data", (chunk: Buffer) => {
    said = (said + chunk.toString("utf8")).slice(-8192);
    if (said.includes("Server is ready")) resolve();
  });
  void gone.then((reason) => reject(new Error(`nats-server ended: ${whyOf(said) || reason}`)));
  try {
    await promise;
  } finally {
    clearTimeout(timer);
  }
}

/** Starts nats-server with a configuration file and waits until it is ready. */
export async function startBusServer(binary: string, configFile: string, logger: Logger): Promise<BusServer> {
  const process = spawn(binary, ["-c", configFile], { stdio: ["ignore", "ignore", "pipe"] });
  const { promise: gone, resolve } = Promise.withResolvers<string>();
  process.once("exit", (code, signal) => resolve(signal ?? `exit status ${code}`));
  process.once("error", (error) => resolve(error.message));
  await ready(process, gone);
  void gone.then((reason) => logger.info({ reason }, "nats-server ended"));
  return {
    pid: process.pid ?? 0,
    ended: gone,
    async [Symbol.asyncDispose]() {
      process.kill("SIGTERM");
      const timer = setTimeout(() => process.kill("SIGKILL"), STOP_TIMEOUT_MS);
      await gone;
      clearTimeout(timer);
    },
  };
}
