import { readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { SHELLS } from "#core/detect/programs.ts";
import { escapeBytes } from "#core/text/escape.ts";
import { pidsBelow } from "../containers/group-pids.ts";
import { connectionsOf } from "../containers/running-sockets.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import type { ExecFrame } from "../wire/frames.ts";
import { ExecFlag } from "../wire/layout.ts";

/** Processes of a container, and files of each, that are looked through for the other end of a stream. */
const BOUNDS = { processes: 512, groups: 64 };
const FILES_MAX = 256;

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}

function filesOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`)
      .slice(0, FILES_MAX)
      .map((file) => linkOf(`/proc/${pid}/fd/${file}`));
  } catch {
    return [];
  }
}

function isShell(frame: ExecFrame): boolean {
  const base = (bytes: Uint8Array) => escapeBytes(bytes.subarray(bytes.lastIndexOf(0x2f) + 1)).toLowerCase();
  return SHELLS.has(base(frame.path)) || SHELLS.has(base(frame.filename));
}

/** Whoever else in the container has an end of the pipe or Unix socket and a connection passes one on to the other. */
async function partnerOf(container: WatchedContainer, frame: ExecFrame, mount: string): Promise<string> {
  const ways = new Set([linkOf(`/proc/${frame.pid}/fd/0`), linkOf(`/proc/${frame.pid}/fd/1`)]);
  if (frame.inputPeer !== 0) ways.add(`socket:[${frame.inputPeer}]`);
  const { pids } = await pidsBelow(join(mount, container.cgroup.path), BOUNDS);
  const others = pids.filter((pid) => pid !== frame.pid);
  const sharing = others
    .map((pid) => ({ pid, files: filesOf(pid) }))
    .filter(({ files }) => files.some((file) => ways.has(file)) && files.some((file) => file.startsWith("socket:")));
  // The kernel goes through all that there is for its list of connections: some 10 ms on a busy machine.
  const connected = sharing.length === 0 ? new Set<string>() : connectionsOf(frame.pid);
  const partner = sharing.find(({ files }) => files.some((file) => connected.has(file)));
  const way = frame.inputPeer === 0 ? "pipe" : "Unix socket";
  return partner === undefined ? "" : `through a ${way} from process ${partner.pid}, which holds a connection`;
}

/**
 * True where a shell reads its commands from its input: it was given none, nor a script. Programs run others by `sh -c`, with
 * pipes or sockets as its streams, all the time.
 */
export function readsInput(args: readonly Uint8Array[]): boolean {
  for (const arg of args.slice(1).map((bytes) => Buffer.from(bytes).toString("latin1"))) {
    if (/^-[a-z]*s/i.test(arg)) return true;
    if (/^-[a-z]*c/.test(arg) || !/^[-+]/.test(arg)) return false;
  }
  return true;
}

/** True for a shell whose input and output both lead to another process: what passes commands on may be a connection. */
export function isPassedShell(frame: ExecFrame): boolean {
  return (frame.flags & ExecFlag.PASSED_STREAMS) !== 0 && isShell(frame) && readsInput(frame.args);
}

/** Which connection a program's standard streams are, directly or through others; empty for none. */
export async function streamOf(container: WatchedContainer, frame: ExecFrame, mount: string): Promise<string> {
  if ((frame.flags & ExecFlag.SOCKET_STREAM) !== 0) return "its standard input is a connection";
  return isPassedShell(frame) ? partnerOf(container, frame, mount) : "";
}
