import { readFileSync, readlinkSync, statSync } from "node:fs";
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

/** What a process runs, as its exec would have told it. Undefined where it has gone, or is none of the container's. */
function execOf(pid: number, cgroup: ControlGroup, slot: number, connections: Connections): ExecFrame | undefined {
  try {
    const exe = readlinkSync(`/proc/${pid}/exe`, { encoding: "buffer" });
    const identity = identityOf(statSync(`/proc/${pid}/exe`, { bigint: true }));
    const status = readText(`/proc/${pid}/status`);
    const args = readFileSync(`/proc/${pid}/cmdline`);
    const isUnlinked = exe.includes(" (deleted)");
    const pids = statusField(status, "NSpid");
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
      uid: Number(statusField(status, "Uid")[0] ?? 0),
      gid: Number(statusField(status, "Gid")[0] ?? 0),
      pidNs: 0,
      inputPeer: 0,
      flags:
        (isUnlinked ? ExecFlag.UNLINKED : 0) |
        (pids.at(-1) === "1" ? ExecFlag.FIRST_PROCESS : 0) |
        streamFlags(pid, connections),
      comm: Buffer.from(readText(`/proc/${pid}/comm`).trim(), "latin1"),
      path: exe,
      filename: exe,
      cwd: readlinkSync(`/proc/${pid}/cwd`, { encoding: "buffer" }),
      args: argumentsOf(splitNul(args), exe),
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
  return isName ? args : [exe.subarray(exe.lastIndexOf(0x2f) + 1), ...rest];
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
