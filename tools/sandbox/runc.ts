import { type ChildProcess, type ChildProcessByStdio, execFile, spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { mkdir, readdir, rm, rmdir } from "node:fs/promises";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { promisify } from "node:util";
import { until } from "../demo/until.ts";
import { BUSYBOX, type BundleOptions, unmountOverlay, writeBundle } from "./bundle.ts";

const run = promisify(execFile);
const STOP_MS = 10_000;
const START_MS = 20_000;

/** What a command in a container came to. */
export interface CommandResult {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly output: string;
}

function collect(child: ChildProcess): Promise<CommandResult> {
  let output = "";
  child.stdout?.on("data", (chunk: Buffer) => (output += chunk.toString("utf8")));
  child.stderr?.on("data", (chunk: Buffer) => (output += chunk.toString("utf8")));
  return new Promise((resolve) => child.once("close", (status, signal) => resolve({ status, signal, output })));
}

/** A container that runs in the foreground of a runc process. Disposing ends and removes it. */
export class SandboxContainer implements AsyncDisposable {
  readonly id: string;
  readonly rootfs: string;
  readonly ended: Promise<CommandResult>;
  readonly #root: string;
  #hasRun = false;

  constructor(id: string, directory: string, root: string, child: ChildProcess) {
    this.id = id;
    this.rootfs = join(directory, "rootfs");
    this.#root = root;
    this.ended = collect(child);
  }

  /** Runs a command in the container, once it has started. */
  async exec(...args: string[]): Promise<CommandResult> {
    await this.#started();
    return collect(
      spawn("runc", ["--root", this.#root, "exec", this.id, ...args], { stdio: ["ignore", "pipe", "pipe"] }),
    );
  }

  /** Starts a program in the container that is spoken to through pipes; it ends with its standard input. */
  async open(...args: string[]): Promise<ChildProcessByStdio<Writable, Readable, null>> {
    await this.#started();
    return spawn("runc", ["--root", this.#root, "exec", this.id, ...args], { stdio: ["pipe", "pipe", "inherit"] });
  }

  /** As `exec`, as another user, for example `1000:1000`. */
  async execAs(user: string, ...args: string[]): Promise<CommandResult> {
    await this.#started();
    const flags = ["--root", this.#root, "exec", "--user", user, this.id, ...args];
    return collect(spawn("runc", flags, { stdio: ["ignore", "pipe", "pipe"] }));
  }

  /** Runs a program of the host in the container's control group and network, so that it counts as the container's. */
  async runFromHost(...args: string[]): Promise<CommandResult> {
    await this.#started();
    const target = await this.initPid();
    const group = readFileSync(`/proc/${target}/cgroup`, "utf8").match(/^0::(.*)$/m)?.[1] ?? "";
    const procs = join(unifiedMount(), group, "cgroup.procs");
    const script = 'echo $$ > "$0" && target=$1 && shift && exec nsenter -t "$target" -n "$@"';
    return collect(spawn("sh", ["-c", script, procs, String(target), ...args], { stdio: ["ignore", "pipe", "pipe"] }));
  }

  /** Waits until it runs or has ended: a container that is held is made but cannot be entered yet. */
  async #started(): Promise<void> {
    if (this.#hasRun) return;
    const ended = this.ended.then(() => true);
    await until(`container ${this.id} to start`, START_MS, async () => {
      const isOver = await Promise.race([ended, Promise.resolve(false)]);
      return isOver || (await this.isRunning()) || undefined;
    });
    this.#hasRun = true;
  }

  /** True while runc says that it runs. */
  async isRunning(): Promise<boolean> {
    const state = await run("runc", ["--root", this.#root, "state", this.id]).catch(() => undefined);
    return state !== undefined && (JSON.parse(state.stdout) as { status: string }).status === "running";
  }

  /** Host pid of its first process. */
  async initPid(): Promise<number> {
    const { stdout } = await run("runc", ["--root", this.#root, "state", this.id]);
    return (JSON.parse(stdout) as { pid: number }).pid;
  }

  /** Gives addresses to the loopback device of its network namespace, so that they lead nowhere else. */
  async addAddresses(...addresses: readonly string[]): Promise<void> {
    await this.#started();
    const target = String(await this.initPid());
    for (const address of addresses) {
      const isIpv6 = address.includes(":");
      const prefix = address.includes("/") ? address : `${address}/${isIpv6 ? 128 : 32}`;
      // A whole network of IPv6 is not one's own by an address in it.
      const how = isIpv6 && prefix === address ? ["-6", "route", "add", "local"] : ["addr", "add"];
      await run("nsenter", ["-t", target, "-n", BUSYBOX, "ip", ...how, prefix, "dev", "lo"]);
    }
  }

  /** Gives it a network of its own besides, on which nobody else has an address. */
  async addNetwork(own: string): Promise<void> {
    await this.#started();
    const target = String(await this.initPid());
    // Of the pair nobody gives the other end an address, and nobody answers there.
    const commands = ["link add wire type veth", "link set wire up", "link set veth0 up", `addr add ${own} dev wire`];
    for (const command of commands) await run("nsenter", ["-t", target, "-n", BUSYBOX, "ip", ...command.split(" ")]);
  }

  /** Lets everybody in its network namespace open sockets for echo requests, as Docker does. */
  async allowEchoSockets(): Promise<void> {
    const target = String(await this.initPid());
    await run("nsenter", ["-t", target, "-n", "sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647"]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await run("runc", ["--root", this.#root, "delete", "--force", this.id]).catch(() => {});
    const timeout = new Promise<void>((resolve) => setTimeout(resolve, STOP_MS).unref());
    await Promise.race([this.ended, timeout]);
  }
}

/** Where cgroup v2 is mounted on this machine. */
export function unifiedMount(): string {
  const lines = readFileSync("/proc/self/mounts", "utf8").split("\n");
  return lines.map((line) => line.split(" ")).find(([, , type]) => type === "cgroup2")?.[1] ?? "/sys/fs/cgroup";
}

/** A place for containers of one run: a control group of their own, a state folder, all removed at the end. */
export class Sandbox implements AsyncDisposable {
  /** Control group path, the scope for an agent. */
  readonly scope: string;
  readonly directory: string;
  readonly #containers: SandboxContainer[] = [];

  private constructor(scope: string, directory: string) {
    this.scope = scope;
    this.directory = directory;
  }

  static async open(name: string, directory: string): Promise<Sandbox> {
    const sandbox = new Sandbox(`/${name}`, directory);
    await mkdir(directory, { recursive: true });
    await mkdir(join(unifiedMount(), name), { recursive: true });
    return sandbox;
  }

  get runcRoot(): string {
    return join(this.directory, "runc");
  }

  /** Starts a container made for the occasion. */
  start(id: string, options: Omit<BundleOptions, "directory" | "cgroupsPath">): SandboxContainer {
    const directory = join(this.directory, "bundles", id);
    writeBundle({ ...options, directory, cgroupsPath: `${this.scope}/${id}` });
    return this.restart(id, directory);
  }

  /** Starts a container from a bundle that is there, under the same or another name. */
  restart(id: string, directory = join(this.directory, "bundles", id)): SandboxContainer {
    const child = spawn("runc", ["--root", this.runcRoot, "run", "--bundle", directory, id], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    const container = new SandboxContainer(id, directory, this.runcRoot, child);
    this.#containers.push(container);
    return container;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const container of this.#containers) {
      await container[Symbol.asyncDispose]();
      unmountOverlay(join(container.rootfs, ".."));
    }
    await removeGroups(join(unifiedMount(), this.scope));
    for (const controller of ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"]) {
      await removeGroups(join("/sys/fs/cgroup", controller, this.scope));
    }
    await rm(this.directory, { recursive: true, force: true });
  }
}

/** Removes a control group that is empty, and those below it. */
async function removeGroups(directory: string): Promise<void> {
  if (!existsSync(directory)) return;
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    if (entry.isDirectory()) await removeGroups(join(directory, entry.name));
  }
  await rmdir(directory).catch(() => {});
}
