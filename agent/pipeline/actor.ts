import { readFileSync, readlinkSync } from "node:fs";
import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { MULTI_CALL } from "#core/detect/programs.ts";
import { baseName } from "#core/policy/process-event.ts";
import { escapeBytes } from "#core/text/escape.ts";
import { type Process, ProcessSchema } from "#gen/gabion/event/v1/event_pb.ts";
import { startTicks } from "../containers/runc.ts";
import { TICK_NS } from "../enforce/stop.ts";
import type { Actor } from "../wire/frames.ts";
import type { WallClock } from "./exec-event.ts";
import { execId, type ProcessTable } from "./process-table.ts";

/** Who did something: as its exec told, where that was seen, else as the kernel saw it at the moment of the act. */
export function processOf(actor: Actor, processes: ProcessTable, bootId: string, wallClock: WallClock): Process {
  const path = `${actor.isCut ? "…" : ""}${escapeBytes(actor.exe)}`;
  const known = processes.find(actor.pid, actor.startNs);
  // A process may have run another program since: the path is the kernel's.
  if (known && known.path === path) return known;
  return create(ProcessSchema, {
    execId: execId(bootId, actor.pid, actor.startNs),
    pid: actor.pid,
    uid: actor.uid,
    gid: actor.gid,
    path,
    name: calledName(path, actor, processes),
    startTime: timestampFromMs(wallClock.toMs(actor.startNs)),
    truncated: actor.isCut,
  });
}

/**
 * Name of a program that was not seen to begin: counted in the kernel only, or forked. One program with many names is what it
 * was called; a child that ran nothing else is what its parent was called. Where neither can be told any more it goes by its
 * own name, which is taken for a shell.
 */
function calledName(path: string, actor: Actor, processes: ProcessTable): string {
  const own = baseName(path);
  if (!MULTI_CALL.has(own)) return own;
  const parent = processes.find(actor.parentPid, actor.parentStartNs);
  return (
    argumentName(actor.pid, actor.startNs) ??
    (parent?.path === path ? parent.name : undefined) ??
    (isProgramOf(actor.parentPid, path) ? argumentName(actor.parentPid, actor.parentStartNs) : undefined) ??
    own
  );
}

/** What a process that lives still was called. */
function argumentName(pid: number, startNs: bigint): string | undefined {
  try {
    const [first = ""] = readFileSync(`/proc/${pid}/cmdline`, "latin1").split("\0");
    if (first === "" || startTicks(pid) !== startNs / TICK_NS) return undefined;
    return escapeBytes(Buffer.from(baseName(first.replace(/^-/, "")), "latin1"));
  } catch {
    return undefined;
  }
}

function isProgramOf(pid: number, path: string): boolean {
  try {
    return escapeBytes(readlinkSync(`/proc/${pid}/exe`, { encoding: "buffer" })) === path;
  } catch {
    return false;
  }
}
