import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { escapeBytes } from "#core/text/escape.ts";
import { type Process, ProcessSchema } from "#gen/gabion/event/v1/event_pb.ts";
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
    name: path.slice(path.lastIndexOf("/") + 1),
    startTime: timestampFromMs(wallClock.toMs(actor.startNs)),
    truncated: actor.isCut,
  });
}
