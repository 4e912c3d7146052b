import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { escapeBytes } from "#core/text/escape.ts";
import { scrubArguments } from "#core/text/scrub.ts";
import {
  ContentState,
  type Event,
  EventSchema,
  type Process,
  ProcessExecSchema,
  ProcessSchema,
} from "#gen/gabion/event/v1/event_pb.ts";
import type { ExecFrame } from "../wire/frames.ts";
import { ExecFlag } from "../wire/layout.ts";
import { execId } from "./process-table.ts";

/** Arguments that an event carries. */
const ARGUMENTS_MAX = 64;
const TRUNCATED = ExecFlag.PATH_TRUNCATED | ExecFlag.NAME_TRUNCATED | ExecFlag.ARGV_TRUNCATED;

/** What was found out about the content of the file that was run. */
export interface Content {
  readonly state: ContentState;
  /** Empty where it could not be read. */
  readonly sha256: string;
}

function baseBytes(text: Uint8Array): Uint8Array {
  return text.subarray(text.lastIndexOf(0x2f) + 1);
}

/**
 * Joins a relative name to the working directory. `..` stays: behind a link it leads elsewhere than its text says, and
 * such a name must not pass for another script's.
 */
function absolute(cwd: string, name: string): string {
  const path = name.startsWith("/") ? name : `${cwd}/${name}`;
  return `/${path
    .split("/")
    .filter((part) => part !== "" && part !== ".")
    .join("/")}`;
}

/** The name that a process goes by: base name of argv[0] without the dash of a login shell; for a script its path. */
export function invokedName(frame: Pick<ExecFrame, "flags" | "args" | "filename" | "cwd">): string {
  const filename = escapeBytes(frame.filename);
  if ((frame.flags & ExecFlag.SCRIPT) !== 0) {
    return absolute(escapeBytes(frame.cwd), filename);
  }
  const first = frame.args[0];
  if (!first || first.length === 0) return escapeBytes(baseBytes(frame.filename));
  return escapeBytes(baseBytes(first[0] === 0x2d ? first.subarray(1) : first));
}

/** The real path; one that was cut begins with an ellipsis, so that its end is not taken for the whole. */
function realPath(frame: ExecFrame): string {
  const path = escapeBytes(frame.path);
  return (frame.flags & ExecFlag.PATH_TRUNCATED) === 0 ? path : `…${path}`;
}

/** Wall-clock time of a kernel timestamp. */
export interface WallClock {
  readonly toMs: (ktimeNs: bigint) => number;
}

export interface ExecContext {
  readonly bootId: string;
  readonly containerId: string;
  readonly content: Content;
  readonly ancestors: readonly Process[];
  readonly wallClock: WallClock;
  /** Which connection its standard streams are; empty for none. */
  readonly stream: string;
  /** Full real path where the kernel's was cut and the process could still be asked. */
  readonly fullPath?: string;
}

/** The event of an exec, with secrets taken out of its arguments. */
export function toExecEvent(frame: ExecFrame, context: ExecContext): Event {
  const { content, ancestors, wallClock } = context;
  const process = create(ProcessSchema, {
    execId: execId(context.bootId, frame.pid, frame.startNs),
    pid: frame.pid,
    uid: frame.uid,
    gid: frame.gid,
    path: context.fullPath ?? realPath(frame),
    name: invokedName(frame),
    args: scrubArguments(frame.args.slice(0, ARGUMENTS_MAX).map(escapeBytes)),
    cwd: escapeBytes(frame.cwd),
    contentState: content.state,
    sha256: content.sha256,
    startTime: timestampFromMs(wallClock.toMs(frame.startNs)),
    truncated: (frame.flags & TRUNCATED) !== 0 || frame.args.length > ARGUMENTS_MAX,
    invokedPath: escapeBytes(frame.filename),
  });
  const isFileless = (frame.flags & (ExecFlag.MEMFD | ExecFlag.UNLINKED)) !== 0;
  const isDrift = isFileless || content.state === ContentState.CHANGED || content.state === ContentState.FOREIGN;
  const exec = create(ProcessExecSchema, {
    process,
    ancestors: [...ancestors],
    isScript: (frame.flags & ExecFlag.SCRIPT) !== 0,
    isDrift,
    isFileless,
    stream: context.stream,
    isSetuid: (frame.flags & ExecFlag.SETUID) !== 0,
  });
  return create(EventSchema, {
    eventTime: timestampFromMs(wallClock.toMs(frame.ktimeNs)),
    ktimeNs: frame.ktimeNs,
    containerId: context.containerId,
    actor: process,
    kind: { case: "exec", value: exec },
  });
}
