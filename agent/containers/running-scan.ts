import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { join } from "node:path";
import { identityOf } from "../content/file-identity.ts";
import { TICK_NS } from "../enforce/stop.ts";
import type { Actor, ContainerFrame, EventHead, ExecFrame, ListenFrame } from "../wire/frames.ts";
import { ExecFlag, ListenFlag, Outcome } from "../wire/layout.ts";
import { startTicks } from "./runc.ts";
import type { ControlGroup } from "./watched-container.ts";

/** Processes of one container that are looked at. */
const PROCESSES_MAX = 4_096;
const TCP_LISTEN = "0A";
const UDP_UNCONNECTED = "07";
/** Ports that the kernel gives to sockets that did not choose, as the sensor has them. */
const EPHEMERAL = { first: 32_768, last: 60_999 };

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
function execOf(pid: number, cgroup: ControlGroup, slot: number): ExecFrame | undefined {
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
      flags: (isUnlinked ? ExecFlag.UNLINKED : 0) | (pids.at(-1) === "1" ? ExecFlag.FIRST_PROCESS : 0),
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

/** Sockets that the processes have open, as /proc/net numbers them. */
function socketsOf(pids: readonly number[]): Set<string> {
  const inodes = pids.flatMap((pid) => {
    try {
      return readdirSync(`/proc/${pid}/fd`).flatMap((file) => {
        const link = readlinkSync(`/proc/${pid}/fd/${file}`);
        return link.startsWith("socket:[") ? [link.slice("socket:[".length, -1)] : [];
      });
    } catch {
      return [];
    }
  });
  return new Set(inodes);
}

/** An address of /proc/net: words of 32 bits in the machine's order. */
function addressOf(hex: string): Buffer {
  const words = hex.match(/.{8}/g) ?? [];
  return Buffer.concat(words.map((word) => Buffer.from(word, "hex").reverse()));
}

/** Sockets of a network namespace that listen or are bound to a port without a peer. */
function listeningIn(
  pid: number,
  own: ReadonlySet<string>,
  [file, transport, state]: readonly [string, number, string],
  base: EventHead,
): ListenFrame[] {
  const actor: Actor = {
    pid: 0,
    startNs: 0n,
    parentPid: 0,
    parentStartNs: 0n,
    uid: 0,
    gid: 0,
    isFirst: false,
    isCut: false,
    comm: Buffer.alloc(0),
    exe: Buffer.alloc(0),
  };
  return readText(`/proc/${pid}/net/${file}`)
    .split("\n")
    .slice(1)
    .map((line) => line.trim().split(/\s+/))
    .filter((fields) => fields[3] === state && own.has(fields[9] ?? ""))
    .flatMap((fields): ListenFrame[] => {
      const [address = "", portHex = "0"] = (fields[1] ?? "").split(":");
      const port = Number.parseInt(portHex, 16);
      const isEphemeral = port >= EPHEMERAL.first && port <= EPHEMERAL.last;
      // A datagram socket of that range is somebody's client.
      if (isEphemeral && state === UDP_UNCONNECTED) return [];
      const flags = isEphemeral ? ListenFlag.EPHEMERAL : 0;
      return [{ kind: "listen", ...base, actor, address: addressOf(address), port, transport, flags }];
    });
}

/**
 * What runs and listens in a container that was there before it was watched, as if it had just begun. It is judged and
 * learned like everything else, and never acted upon: whoever starts the agent must not stop what works.
 */
export function scanRunning(mount: string, cgroup: ControlGroup, slot: number): ContainerFrame[] {
  const pids = readText(join(mount, cgroup.path, "cgroup.procs"))
    .trim()
    .split("\n")
    .slice(0, PROCESSES_MAX)
    .map(Number);
  const execs = pids.flatMap((pid) => execOf(pid, cgroup, slot) ?? []);
  const first = execs[0]?.pid;
  if (first === undefined) return [];
  // A network may be shared: only sockets that these processes have open are theirs.
  const own = socketsOf(pids);
  const base = head(cgroup, slot);
  return [
    ...execs,
    ...listeningIn(first, own, ["tcp", 6, TCP_LISTEN], base),
    ...listeningIn(first, own, ["tcp6", 6, TCP_LISTEN], base),
    ...listeningIn(first, own, ["udp", 17, UDP_UNCONNECTED], base),
    ...listeningIn(first, own, ["udp6", 17, UDP_UNCONNECTED], base),
  ];
}
