import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { evaluateWritten, heldFileFact } from "#core/policy/file-policy.ts";
import { escapeBytes } from "#core/text/escape.ts";
import { FileOperation, Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import type { HashCache } from "../content/hash-cache.ts";
import type { SlotUse } from "../enforce/slot-table.ts";
import type { WrittenFrame } from "../wire/frames.ts";
import { type EventMaker, type Judged, NOTHING } from "./judged.ts";

/** The file by the sensor's own descriptor: whoever renamed or removed it does not hide it. */
export function openWritten({ descriptor }: WrittenFrame, sensorPid: number): Promise<FileHandle> {
  return open(`/proc/${sensorPid}/fd/${descriptor}`, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
}

/** SHA-256 of what was written; empty where the descriptor is another file's by now, or the file cannot be read. */
async function hashOf(frame: WrittenFrame, file: FileHandle, cache: HashCache): Promise<string> {
  const known = cache.known(frame);
  if (known) return known;
  const hashed = await cache.hashOpen(file);
  const isSame = hashed?.identity.inode === frame.inode && hashed.identity.device === frame.device;
  return isSame ? hashed.sha256 : "";
}

/** Looks at what is in a file that was written: nothing where it is not known to be bad, undefined where it is not known. */
export async function judgeWritten(
  maker: EventMaker,
  container: WatchedContainer,
  frame: WrittenFrame,
  use: SlotUse,
  { cache, file }: { readonly cache: HashCache; readonly file: FileHandle },
): Promise<Judged[] | undefined> {
  const sha256 = await hashOf(frame, file, cache);
  if (sha256 === "") return undefined;
  const path = escapeBytes(frame.path);
  const [actor, ...ancestors] = maker.processes.ancestors(frame.pid, 0n);
  const processPath = actor?.path ?? "";
  const decision = evaluateWritten(use.policy.filesystem, { path, processPath, sha256 });
  if (decision === undefined) return [];
  const change = { operation: FileOperation.WRITE, path, newPath: "", sha256, isExecutable: false };
  const event = maker.event(container, frame.ktimeNs, { case: "fileChange", value: change }, actor, ancestors);
  return [
    {
      section: Section.FILESYSTEM,
      event,
      decision,
      facts: [heldFileFact({ ...change, processPath })],
      object: ["malware", path, sha256],
      act: { ...NOTHING, happened: "the file had been written" },
    },
  ];
}
