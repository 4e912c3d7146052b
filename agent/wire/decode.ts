import { decodeContainerEvent } from "./decode-event.ts";
import type { DecodeFault, ExecFrame, SensorFrame, StatsRow } from "./frames.ts";
import { FrameType, HEADER_BYTES, LAYOUT, MAX_FRAME_BYTES, Outcome, WIRE_VERSION } from "./layout.ts";

const { exec_event: EXEC, cgroup_event: CGROUP, stats_frame: STATS, stats_row: ROW } = LAYOUT;
const BUCKETS = (STATS.size - STATS.fields.decide_buckets) / 8;
const EVENT = LAYOUT.gabion_event.fields;

function fault(message: string): DecodeFault {
  return { kind: "fault", message };
}

/** Bytes up to the first NUL within a field. Copied: the buffer below is used again. */
function textAt(frame: Buffer, at: number, limit: number): Buffer {
  const field = frame.subarray(at, Math.min(at + limit, frame.length));
  const end = field.indexOf(0);
  return Buffer.from(end < 0 ? field : field.subarray(0, end));
}

function splitArguments(bytes: Buffer): Uint8Array[] {
  const args: Uint8Array[] = [];
  let begin = 0;
  while (begin < bytes.length) {
    const found = bytes.indexOf(0, begin);
    const end = found < 0 ? bytes.length : found;
    args.push(Buffer.from(bytes.subarray(begin, end)));
    begin = end + 1;
  }
  return args;
}

function decodeExec(frame: Buffer): ExecFrame | DecodeFault {
  const at = EXEC.fields;
  const pathLength = frame.readUInt16LE(at.path_length);
  const filenameLength = frame.readUInt16LE(at.filename_length);
  const cwdLength = frame.readUInt16LE(at.cwd_length);
  const argvLength = frame.readUInt16LE(at.argv_length);
  if (pathLength > at.filename - at.path || filenameLength > at.cwd - at.filename || cwdLength > at.argv - at.cwd) {
    return fault("an exec frame names a text longer than its field");
  }
  if (at.argv + argvLength > frame.length) return fault("an exec frame ends before its arguments");
  return {
    kind: "exec",
    outcome: frame.readUInt8(LAYOUT.gabion_frame.fields.outcome),
    ktimeNs: frame.readBigUInt64LE(EVENT.ktime_ns),
    cgroupId: frame.readBigUInt64LE(EVENT.cgroup_id),
    slot: frame.readUInt32LE(EVENT.slot),
    startNs: frame.readBigUInt64LE(at.start_ns),
    parentStartNs: frame.readBigUInt64LE(at.parent_start_ns),
    inode: frame.readBigUInt64LE(at.inode),
    device: frame.readUInt32LE(at.device),
    ctimeNs: frame.readBigUInt64LE(at.ctime_ns),
    content: frame.readBigUInt64LE(at.content),
    pid: frame.readUInt32LE(at.pid),
    parentPid: frame.readUInt32LE(at.parent_pid),
    uid: frame.readUInt32LE(at.uid),
    gid: frame.readUInt32LE(at.gid),
    pidNs: frame.readUInt32LE(at.pid_ns),
    flags: frame.readUInt32LE(at.flags),
    inputPeer: frame.readUInt32LE(at.input_peer),
    comm: textAt(frame, at.comm, at.path - at.comm),
    path: textAt(frame, at.path, pathLength),
    filename: textAt(frame, at.filename, filenameLength),
    cwd: textAt(frame, at.cwd, cwdLength),
    args: splitArguments(frame.subarray(at.argv, at.argv + argvLength)),
  };
}

function decodeRow(frame: Buffer, base: number): StatsRow {
  const read = (offset: number) => frame.readBigUInt64LE(base + offset);
  const { cgroup_id, section, seen, allowed, emitted, lost, killed, throttled } = ROW.fields;
  return {
    cgroupId: read(cgroup_id),
    section: Number(read(section)),
    seen: read(seen),
    allowed: read(allowed),
    emitted: read(emitted),
    lost: read(lost),
    killed: read(killed),
    throttled: read(throttled),
  };
}

function decodeStats(frame: Buffer): SensorFrame | DecodeFault {
  const rowCount = frame.readUInt32LE(STATS.fields.row_count);
  if (STATS.size + rowCount * ROW.size > frame.length) return fault("a stats frame ends before its rows");
  return {
    kind: "stats",
    rows: Array.from({ length: rowCount }, (_, i) => decodeRow(frame, STATS.size + i * ROW.size)),
    lostInPipe: frame.readBigUInt64LE(STATS.fields.lost_in_pipe),
    lostInRing: frame.readBigUInt64LE(STATS.fields.lost_in_ring),
    decideNs: frame.readBigUInt64LE(STATS.fields.decide_ns),
    decideCount: frame.readBigUInt64LE(STATS.fields.decide_count),
    decideBuckets: Array.from({ length: BUCKETS }, (_, i) =>
      frame.readBigUInt64LE(STATS.fields.decide_buckets + i * 8),
    ),
  };
}

function decodeHits(frame: Buffer): SensorFrame | DecodeFault {
  const { hits_frame: HITS, hit_row: HIT } = LAYOUT;
  const rowCount = frame.readUInt32LE(HITS.fields.row_count);
  if (HITS.size + rowCount * HIT.size > frame.length) return fault("a frame of hits ends before its rows");
  return {
    kind: "hits",
    cgroupId: frame.readBigUInt64LE(HITS.fields.cgroup_id),
    slot: frame.readUInt32LE(HITS.fields.slot),
    rows: Array.from({ length: rowCount }, (_, i) => {
      const at = HITS.size + i * HIT.size;
      return { entry: frame.readUInt32LE(at + HIT.fields.entry), count: frame.readUInt32LE(at + HIT.fields.count) };
    }),
  };
}

const CGROUP_KINDS = {
  [FrameType.CGROUP_NEW]: "cgroup_new",
  [FrameType.CGROUP_EMPTY]: "cgroup_empty",
  [FrameType.CGROUP_GONE]: "cgroup_gone",
  [FrameType.CGROUP_LEFT]: "cgroup_left",
} as const;

function decodeCgroup(frame: Buffer, type: keyof typeof CGROUP_KINDS): SensorFrame {
  const at = CGROUP.fields;
  return {
    kind: CGROUP_KINDS[type],
    cgroupId: frame.readBigUInt64LE(EVENT.cgroup_id),
    parentId: frame.readBigUInt64LE(at.parent_id),
    creatorPid: frame.readUInt32LE(at.creator_pid),
    flags: frame.readUInt32LE(at.flags),
    isHeld: frame.readUInt8(LAYOUT.gabion_frame.fields.outcome) === Outcome.HELD,
    path: textAt(frame, at.path, frame.length - at.path).toString("utf8"),
  };
}

function decodeHello(frame: Buffer): SensorFrame {
  const at = LAYOUT.hello_frame.fields;
  return {
    kind: "hello",
    groups: frame.readUInt32LE(at.groups),
    hostMountNs: frame.readUInt32LE(at.host_mount_ns),
    hostPidNs: frame.readUInt32LE(at.host_pid_ns),
    kernelRelease: textAt(frame, at.kernel_release, at.missing - at.kernel_release).toString("utf8"),
    missing: textAt(frame, at.missing, LAYOUT.hello_frame.size - at.missing).toString("utf8"),
  };
}

/** Shortest frame of each type. */
const MINIMUM: Partial<Record<number, number>> = {
  [FrameType.HELLO]: LAYOUT.hello_frame.size,
  [FrameType.EXEC]: EXEC.fields.argv,
  [FrameType.EXIT]: LAYOUT.exit_event.size,
  [FrameType.CGROUP_NEW]: CGROUP.fields.path,
  [FrameType.CGROUP_EMPTY]: CGROUP.fields.path,
  [FrameType.CGROUP_GONE]: CGROUP.fields.path,
  [FrameType.CGROUP_LEFT]: CGROUP.fields.path,
  [FrameType.STATS]: STATS.size,
  [FrameType.HITS]: LAYOUT.hits_frame.size,
  [FrameType.ACK]: LAYOUT.ack_frame.size,
  [FrameType.HOLD_EXPIRED]: LAYOUT.hold_frame.size,
  [FrameType.CONNECT]: LAYOUT.connect_event.size,
  [FrameType.LISTEN]: LAYOUT.listen_event.size,
  [FrameType.SOCKET]: LAYOUT.socket_event.size,
  [FrameType.DNS]: LAYOUT.dns_event.size,
  [FrameType.FILE]: LAYOUT.file_event.size,
  [FrameType.SYSCALL]: LAYOUT.syscall_event.size,
  [FrameType.CONTACT]: LAYOUT.contact_event.size,
  [FrameType.REDIRECT]: LAYOUT.redirect_event.size,
  [FrameType.REFUSED]: LAYOUT.refused_event.size,
  [FrameType.WRITTEN]: LAYOUT.written_event.size,
};

/** Decodes one whole frame. Every length is checked before it is used; what does not fit is a fault, never a throw. */
export function decodeFrame(frame: Buffer): SensorFrame | DecodeFault {
  if (frame.length < HEADER_BYTES) return fault("a frame is shorter than its header");
  const type = frame.readUInt16LE(LAYOUT.gabion_frame.fields.type);
  const minimum = MINIMUM[type];
  if (minimum === undefined) return fault(`frame type ${type} is unknown`);
  if (frame.length < minimum) return fault(`a frame of type ${type} has ${frame.length} bytes, not ${minimum}`);
  switch (type) {
    case FrameType.EXEC:
      return decodeExec(frame);
    case FrameType.EXIT:
      return {
        kind: "exit",
        ktimeNs: frame.readBigUInt64LE(EVENT.ktime_ns),
        cgroupId: frame.readBigUInt64LE(EVENT.cgroup_id),
        startNs: frame.readBigUInt64LE(LAYOUT.exit_event.fields.start_ns),
        pid: frame.readUInt32LE(LAYOUT.exit_event.fields.pid),
        exitCode: frame.readUInt32LE(LAYOUT.exit_event.fields.exit_code),
      };
    case FrameType.STATS:
      return decodeStats(frame);
    case FrameType.HITS:
      return decodeHits(frame);
    case FrameType.HELLO:
      return decodeHello(frame);
    case FrameType.HOLD_EXPIRED:
      return { kind: "hold_expired", cgroupId: frame.readBigUInt64LE(LAYOUT.hold_frame.fields.cgroup_id) };
    case FrameType.ACK:
      return {
        kind: "ack",
        request: frame.readUInt32LE(LAYOUT.ack_frame.fields.request),
        error: frame.readUInt32LE(LAYOUT.ack_frame.fields.error),
        message: textAt(frame, LAYOUT.ack_frame.fields.message, 112).toString("utf8"),
      };
    case FrameType.CGROUP_NEW:
    case FrameType.CGROUP_EMPTY:
    case FrameType.CGROUP_GONE:
    case FrameType.CGROUP_LEFT:
      return decodeCgroup(frame, type);
    default:
      return decodeContainerEvent(frame, type);
  }
}

/** Cuts a byte stream into frames. A frame is refused by the length that it declares, before it is buffered. */
export class FrameReader {
  #pending: Buffer = Buffer.alloc(0);

  /** Takes a chunk and returns the frames that it completes; ends with a fault if there is one. */
  read(chunk: Buffer): (SensorFrame | DecodeFault)[] {
    const bytes = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk]);
    const frames: (SensorFrame | DecodeFault)[] = [];
    let at = 0;
    while (bytes.length - at >= HEADER_BYTES) {
      const length = bytes.readUInt32LE(at);
      const version = bytes.readUInt8(at + LAYOUT.gabion_frame.fields.version);
      if (version !== WIRE_VERSION) return [...frames, fault(`wire version ${version} is not ${WIRE_VERSION}`)];
      if (length < HEADER_BYTES || length > MAX_FRAME_BYTES) return [...frames, fault(`frame length ${length}`)];
      if (bytes.length - at < length) break;
      frames.push(decodeFrame(bytes.subarray(at, at + length)));
      at += length;
    }
    this.#pending = Buffer.from(bytes.subarray(at));
    return frames;
  }
}
