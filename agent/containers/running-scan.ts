import { type BigIntStats, lstatSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import type { AddressClasses } from "#core/matching/address-class.ts";
import { identityOf } from "../content/file-identity.ts";
import { TICK_NS } from "../enforce/stop.ts";
import type { Actor, ContainerFrame, EventHead, ExecFrame } from "../wire/frames.ts";
import { ExecFlag, Outcome } from "../wire/layout.ts";
import { pidsBelow } from "./group-pids.ts";
import { startTicks } from "./runc.ts";
import { connectionsOf, runningSockets } from "./running-sockets.ts";
import type { ControlGroup } from "./watched-container.ts";

/** What is looked at of one container. */
const BOUNDS = { processes: 4_096, groups: 1_024 };
const PAUSE_EVERY = 64;
/** Of a task's name: TASK_COMM_LEN without its end. */
const COMM_BYTES = 15;

function readText(path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return "";
  }
}

function head(cgroup: ControlGroup, slot: number): EventHead {
  const uptimeNs = BigInt(Math.round(Number(readText("/proc/uptime").split(" ")[0] ?? 0) * 1e9));
  return { outcome: Outcome.OBSERVED, ktimeNs: uptimeNs, cgroupId: cgroup.id, slot };
}

function statusField(status: string, name: string): string[] {
  return new RegExp(`^${name}:\\s+(.*)$`, "m").exec(status)?.[1]?.split(/\s+/) ?? [];
}

/** What the link to a process's program says behind the path of a file that has no name any more. */
const DELETED = Buffer.from(" (deleted)");
const MEMFD = Buffer.from("/memfd:");

/**
 * The program's path and what it is, as the sensor has them: one in memory is `memfd:NAME`, one that is deleted has its path.
 * Links are no sign of it: an overlay has those of the image's file.
 */
function programOf(pid: number, exe: Buffer, file: BigIntStats): { readonly path: Buffer; readonly flags: number } {
  if (!exe.subarray(-DELETED.length).equals(DELETED) || isThere(pid, exe, file)) return { path: exe, flags: 0 };
  const path = exe.subarray(0, -DELETED.length);
  const isMemfd = file.nlink === 0n && path.subarray(0, MEMFD.length).equals(MEMFD);
  return isMemfd
    ? { path: path.subarray(1), flags: ExecFlag.MEMFD | ExecFlag.UNLINKED }
    : { path, flags: ExecFlag.UNLINKED };
}

/** True where a file really has such a name. */
function isThere(pid: number, path: Buffer, { ino, dev }: BigIntStats): boolean {
  const place = Buffer.concat([Buffer.from(`/proc/${pid}/root`), path]);
  const found = lstatSync(place, { bigint: true, throwIfNoEntry: false });
  return found?.ino === ino && found.dev === dev;
}

function baseOf(path: Buffer): Buffer {
  return path.subarray(path.lastIndexOf(0x2f) + 1);
}

/**
 * The script that a process runs: the kernel names the task by it, and has put it behind the interpreter and at most one
 * argument of that. Undefined for a program of its own.
 */
function scriptOf(comm: Buffer, args: readonly Buffer[], exe: Buffer): Buffer | undefined {
  const isNamed = (path: Buffer) => baseOf(path).subarray(0, COMM_BYTES).equals(comm);
  if (comm.length === 0 || isNamed(exe) || (args[0] && isNamed(args[0]))) return undefined;
  return args.slice(1, 3).find(isNamed);
}

/**
 * What a process runs, as its exec would have told it, but whose rights it took: it may have changed them since. Undefined
 * where it has gone, or is none of the container's.
 */
function execOf(pid: number, cgroup: ControlGroup, slot: number, connections: Connections): ExecFrame | undefined {
  try {
    const file = statSync(`/proc/${pid}/exe`, { bigint: true });
    const identity = identityOf(file);
    const status = readText(`/proc/${pid}/status`);
    const [uid = "0"] = statusField(status, "Uid");
    const exe = readlinkSync(`/proc/${pid}/exe`, { encoding: "buffer" });
    const { path, flags } = programOf(pid, exe, file);
    const args = argumentsOf(splitNul(readFileSync(`/proc/${pid}/cmdline`)), path);
    const comm = Buffer.from(readText(`/proc/${pid}/comm`).trimEnd(), "latin1");
    const script = scriptOf(comm, args, path);
    return {
      kind: "exec",
      ...head(cgroup, slot),
      startNs: (startTicks(pid) ?? 0n) * TICK_NS,
      parentPid: Number(statusField(status, "PPid")[0] ?? 0),
      parentStartNs: 0n,
      inode: identity.inode,
      device: identity.device,
      ctimeNs: identity.ctimeNs,
      content: 0n,
      pid,
      uid: Number(uid),
      gid: Number(statusField(status, "Gid")[0] ?? 0),
      pidNs: 0,
      inputPeer: 0,
      flags:
        flags |
        (script ? ExecFlag.SCRIPT : 0) |
        (statusField(status, "NSpid").at(-1) === "1" ? ExecFlag.FIRST_PROCESS : 0) |
        streamFlags(pid, connections),
      comm,
      path,
      filename: script ?? path,
      cwd: readlinkSync(`/proc/${pid}/cwd`, { encoding: "buffer" }),
      args,
    };
  } catch {
    return undefined;
  }
}

function linkOf(pid: number, name: string): string {
  try {
    return readlinkSync(`/proc/${pid}/${name}`);
  } catch {
    return "";
  }
}

function openFile(pid: number, descriptor: number): string {
  return linkOf(pid, `fd/${descriptor}`);
}

/** Connections of the networks that the processes of a scan are in, each read once: it takes long where there are many. */
class Connections {
  readonly #byNetwork = new Map<string, ReadonlySet<string>>();

  has(pid: number, socket: string): boolean {
    const network = linkOf(pid, "ns/net");
    const known = this.#byNetwork.get(network) ?? connectionsOf(pid);
    this.#byNetwork.set(network, known);
    return known.has(socket);
  }
}

/** What standard input and output are, as `read_streams` of the sensor has it; the other end of a Unix socket is not known. */
function streamFlags(pid: number, connections: Connections): number {
  const input = openFile(pid, 0);
  if (input.startsWith("socket:")) return connections.has(pid, input) ? ExecFlag.SOCKET_STREAM : 0;
  return input.startsWith("pipe:") && openFile(pid, 1).startsWith("pipe:") ? ExecFlag.PASSED_STREAMS : 0;
}

function splitNul(bytes: Buffer): Buffer[] {
  const texts = bytes.toString("latin1").split("\0").slice(0, -1);
  return texts.map((text) => Buffer.from(text, "latin1"));
}

/** Programs rewrite their arguments to show what they do: then their name is that of their file. */
function argumentsOf(args: Buffer[], exe: Buffer): Buffer[] {
  const [first = Buffer.alloc(0), ...rest] = args;
  const isName = /^[\w./+-]+$/.test(first.toString("latin1"));
  return isName ? args : [baseOf(exe), ...rest];
}

function actorOf({ pid, startNs, parentPid, uid, gid, flags, comm, path }: ExecFrame): Actor {
  const isFirst = (flags & ExecFlag.FIRST_PROCESS) !== 0;
  return { pid, startNs, parentPid, parentStartNs: 0n, uid, gid, isFirst, isCut: false, comm, exe: path };
}

/** What ran in a container before it was watched. */
export interface RunningScan {
  readonly frames: ContainerFrame[];
  /** False where there was more than is looked at. */
  readonly isComplete: boolean;
}

/**
 * What runs, listens and is connected in a container that was there before it was watched, as if it had just begun. It is
 * judged and learned like everything else, and never acted upon: whoever starts the agent must not stop what works.
 */
export async function scanRunning(
  mount: string,
  cgroup: ControlGroup,
  slot: number,
  classes: AddressClasses,
): Promise<RunningScan> {
  const { pids, isComplete } = await pidsBelow(join(mount, cgroup.path), BOUNDS);
  const connections = new Connections();
  const execs: ExecFrame[] = [];
  for (const [place, pid] of pids.entries()) {
    const exec = execOf(pid, cgroup, slot, connections);
    if (exec) execs.push(exec);
    // What else the agent has to do goes on in between.
    if (place % PAUSE_EVERY === PAUSE_EVERY - 1) await setImmediate();
  }
  const sockets = runningSockets(head(cgroup, slot), execs.map(actorOf), classes);
  return { frames: [...execs, ...sockets], isComplete };
}
