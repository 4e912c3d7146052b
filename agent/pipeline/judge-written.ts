import { evaluateWritten, heldFileFact } from "#core/policy/file-policy.ts";
import { escapeBytes } from "#core/text/escape.ts";
import { FileOperation, Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import type { HashCache } from "../content/hash-cache.ts";
import type { SlotUse } from "../enforce/slot-table.ts";
import type { WrittenFrame } from "../wire/frames.ts";
import { type EventMaker, type Judged, NOTHING } from "./judged.ts";

/** SHA-256 of what was written, by the sensor's own descriptor: whoever renamed or removed the file does not hide it. */
async function hashOf(frame: WrittenFrame, sensorPid: number, cache: HashCache): Promise<string> {
  const known = cache.known(frame);
  if (known) return known;
  const hashed = await cache.hash(`/proc/${sensorPid}/fd/${frame.descriptor}`);
  const isSame = hashed?.identity.inode === frame.inode && hashed.identity.device === frame.device;
  return isSame ? hashed.sha256 : "";
}

/** Looks at what is in a file that was written. Nothing where it is not known to be bad. */
export async function judgeWritten(
  maker: EventMaker,
  container: WatchedContainer,
  frame: WrittenFrame,
  use: SlotUse,
  { cache, sensorPid }: { readonly cache: HashCache; readonly sensorPid: number },
): Promise<Judged[]> {
  const sha256 = await hashOf(frame, sensorPid, cache);
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
