import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { freePort } from "#lib/bus/server.ts";
import { type Connection, connect } from "../cli/connection.ts";
import { until } from "./until.ts";

const ROOT = resolve(import.meta.dirname, "../..");
const STOP_MS = 20_000;

export interface StackOptions {
  readonly data: string;
  /** Part of the control group tree that the agent watches. */
  readonly scope: string;
  readonly runcRoot: string;
  /** Further settings as `name=value`. */
  readonly settings?: readonly string[];
}

/** A whole Gabion on this machine, on ports of its own, for demonstrations and tests. */
export class LocalStack implements AsyncDisposable {
  readonly connection: Connection;
  readonly process: ChildProcess;
  readonly #log: string[];

  private constructor(process: ChildProcess, log: string[], connection: Connection) {
    this.process = process;
    this.#log = log;
    this.connection = connection;
  }

  /** What the processes wrote last. */
  get log(): string {
    return this.#log.join("");
  }

  static async start({ data, scope, runcRoot, settings = [] }: StackOptions): Promise<LocalStack> {
    const names = ["nats", "model", "rule", "intel", "audit"];
    const ports = await Promise.all(names.map(() => freePort()));
    const flags = [
      `data.directory=${data}`,
      `agent.scope=${scope}`,
      `agent.runcRoots=${runcRoot}`,
      ...names.map((name, i) => `${name}.port=${ports[i]}`),
      ...settings,
    ];
    const args = [join(ROOT, "services/all-in-one/main.ts"), ...flags.flatMap((flag) => ["--set", flag])];
    const child = spawn(process.execPath, args, { stdio: ["ignore", "ignore", "pipe"] });
    const log: string[] = [];
    child.stderr?.on("data", (chunk: Buffer) => {
      log.push(chunk.toString("utf8"));
      if (log.length > 500) log.shift();
    });
    const ended = new Promise<void>((done) => child.once("exit", () => done()));
    const hasStarted = () => log.join("").includes("agent of node") && existsSync(join(data, "endpoints.json"));
    const started = until("Gabion to start", 60_000, () => (hasStarted() ? true : undefined));
    await Promise.race([started, ended.then(() => Promise.reject(new Error(`Gabion ended: ${log.join("")}`)))]);
    return new LocalStack(child, log, connect({ data, operator: "operator/local/admin" }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.connection[Symbol.dispose]();
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const ended = new Promise<void>((done) => this.process.once("exit", () => done()));
    this.process.kill("SIGTERM");
    const timer = setTimeout(() => this.process.kill("SIGKILL"), STOP_MS);
    await ended;
    clearTimeout(timer);
  }
}
