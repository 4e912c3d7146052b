import type { Actor, ContainerFrame, DecodeFault, DnsFrame, EventHead, FileFrame } from "./frames.ts";
import { FrameType, LAYOUT } from "./layout.ts";

const EVENT = LAYOUT.gabion_event;
const ACTOR = LAYOUT.gabion_actor.fields;
const ANSWERS_MAX = 8;

/** A field's bytes up to its length. Copied: the buffer below is used again. */
function bytesAt(frame: Buffer, at: number, length: number, limit: number): Buffer {
  return Buffer.from(frame.subarray(at, at + Math.min(length, limit)));
}

function headOf(frame: Buffer): EventHead {
  return {
    outcome: frame.readUInt8(LAYOUT.gabion_frame.fields.outcome),
    ktimeNs: frame.readBigUInt64LE(EVENT.fields.ktime_ns),
    cgroupId: frame.readBigUInt64LE(EVENT.fields.cgroup_id),
    slot: frame.readUInt32LE(EVENT.fields.slot),
  };
}

/** The actor stands behind the event's head in every event that has one. */
function actorOf(frame: Buffer): Actor {
  const at = (field: keyof typeof ACTOR) => EVENT.size + ACTOR[field];
  const comm = frame.subarray(at("comm"), at("comm") + 16);
  const end = comm.indexOf(0);
  return {
    pid: frame.readUInt32LE(at("pid")),
    startNs: frame.readBigUInt64LE(at("start_ns")),
    parentPid: frame.readUInt32LE(at("parent_pid")),
    parentStartNs: frame.readBigUInt64LE(at("parent_start_ns")),
    uid: frame.readUInt32LE(at("uid")),
    gid: frame.readUInt32LE(at("gid")),
    isFirst: frame.readUInt8(at("is_first")) === 1,
    isCut: frame.readUInt8(at("is_cut")) === 1,
    comm: Buffer.from(end < 0 ? comm : comm.subarray(0, end)),
    exe: bytesAt(frame, at("exe"), frame.readUInt16LE(at("exe_length")), LAYOUT.gabion_actor.size - ACTOR.exe),
  };
}

/** 4 bytes for IPv4, which travels as ::ffff:a.b.c.d, else 16. */
function addressAt(frame: Buffer, at: number): Buffer {
  const bytes = frame.subarray(at, at + 16);
  const isMapped = bytes.readBigUInt64BE(0) === 0n && bytes.readUInt32BE(8) === 0xffff;
  return Buffer.from(isMapped ? bytes.subarray(12) : bytes);
}

function decodeDns(frame: Buffer): DnsFrame {
  const at = LAYOUT.dns_event.fields;
  const count = Math.min(frame.readUInt16LE(at.answer_count), ANSWERS_MAX);
  return {
    kind: "dns",
    ...headOf(frame),
    actor: actorOf(frame),
    name: bytesAt(frame, at.name, frame.readUInt16LE(at.name_length), LAYOUT.dns_event.size - at.name),
    recordType: frame.readUInt16LE(at.record_type),
    questionCount: frame.readUInt16LE(at.question_count),
    responseCode: frame.readUInt16LE(at.response_code),
    payloadLength: frame.readUInt16LE(at.payload_length),
    resolver: addressAt(frame, at.resolver),
    answers: Array.from({ length: count }, (_, i) => addressAt(frame, at.answers + i * 16)),
    flags: frame.readUInt16LE(at.flags),
  };
}

function decodeFile(frame: Buffer): FileFrame {
  const at = LAYOUT.file_event.fields;
  const text = (start: number, length: number, end: number) =>
    bytesAt(frame, start, frame.readUInt16LE(length), end - start);
  return {
    kind: "file",
    ...headOf(frame),
    actor: actorOf(frame),
    inode: frame.readBigUInt64LE(at.inode),
    device: frame.readUInt32LE(at.device),
    mode: frame.readUInt32LE(at.mode),
    operation: frame.readUInt32LE(at.operation),
    flags: frame.readUInt32LE(at.flags),
    path: text(at.path, at.path_length, at.target),
    target: text(at.target, at.target_length, at.base),
    base: text(at.base, at.base_length, at.target_base),
    targetBase: text(at.target_base, at.target_base_length, LAYOUT.file_event.size),
  };
}

function decodeConnect(frame: Buffer): ContainerFrame {
  const at = LAYOUT.connect_event.fields;
  return {
    kind: "connect",
    ...headOf(frame),
    actor: actorOf(frame),
    address: addressAt(frame, at.address),
    port: frame.readUInt16LE(at.port),
    transport: frame.readUInt8(at.transport),
    flags: frame.readUInt32LE(at.flags),
    domain: bytesAt(frame, at.domain, frame.readUInt16LE(at.domain_length), LAYOUT.connect_event.size - at.domain),
  };
}

function decodeListen(frame: Buffer): ContainerFrame {
  const at = LAYOUT.listen_event.fields;
  return {
    kind: "listen",
    ...headOf(frame),
    actor: actorOf(frame),
    address: addressAt(frame, at.address),
    port: frame.readUInt16LE(at.port),
    transport: frame.readUInt8(at.transport),
    flags: frame.readUInt32LE(at.flags),
  };
}

function decodeContact(frame: Buffer): ContainerFrame {
  const at = LAYOUT.contact_event.fields;
  return {
    kind: "contact",
    ...headOf(frame),
    address: addressAt(frame, at.address),
    port: frame.readUInt16LE(at.port),
    transport: frame.readUInt8(at.transport),
    isFailed: frame.readUInt8(at.is_failed) === 1,
    error: frame.readInt32LE(at.error),
  };
}

function decodeSocket(frame: Buffer): ContainerFrame {
  const at = LAYOUT.socket_event.fields;
  return {
    kind: "socket",
    ...headOf(frame),
    actor: actorOf(frame),
    family: frame.readUInt32LE(at.family),
    type: frame.readUInt32LE(at.type),
    protocol: frame.readUInt32LE(at.protocol),
  };
}

function decodeRefused(frame: Buffer): ContainerFrame {
  const at = LAYOUT.refused_event.fields;
  return {
    kind: "refused",
    ...headOf(frame),
    pid: frame.readUInt32LE(at.pid),
    isExec: frame.readUInt32LE(at.is_exec) === 1,
    path: bytesAt(frame, at.path, frame.readUInt32LE(at.path_length), LAYOUT.refused_event.size - at.path),
  };
}

function decodeWritten(frame: Buffer): ContainerFrame {
  const at = LAYOUT.written_event.fields;
  return {
    kind: "written",
    ...headOf(frame),
    inode: frame.readBigUInt64LE(at.inode),
    device: frame.readUInt32LE(at.device),
    ctimeNs: frame.readBigUInt64LE(at.ctime_ns),
    size: frame.readBigUInt64LE(at.size),
    pid: frame.readUInt32LE(at.pid),
    descriptor: frame.readUInt32LE(at.descriptor),
    path: bytesAt(frame, at.path, frame.readUInt32LE(at.path_length), LAYOUT.written_event.size - at.path),
  };
}

/** An event of a container that is not an exec. The caller has checked that the frame is as long as its type needs. */
export function decodeContainerEvent(frame: Buffer, type: number): ContainerFrame | DecodeFault {
  switch (type) {
    case FrameType.CONNECT:
      return decodeConnect(frame);
    case FrameType.LISTEN:
      return decodeListen(frame);
    case FrameType.SOCKET:
      return decodeSocket(frame);
    case FrameType.DNS:
      return decodeDns(frame);
    case FrameType.FILE:
      return decodeFile(frame);
    case FrameType.CONTACT:
      return decodeContact(frame);
    case FrameType.REFUSED:
      return decodeRefused(frame);
    case FrameType.WRITTEN:
      return decodeWritten(frame);
    case FrameType.SYSCALL:
      return {
        kind: "syscall",
        ...headOf(frame),
        actor: actorOf(frame),
        number: frame.readUInt32LE(LAYOUT.syscall_event.fields.number),
        flags: frame.readUInt32LE(LAYOUT.syscall_event.fields.flags),
      };
    case FrameType.REDIRECT:
      return {
        kind: "redirect",
        ...headOf(frame),
        actor: actorOf(frame),
        descriptor: frame.readUInt32LE(LAYOUT.redirect_event.fields.descriptor),
      };
    default:
      return { kind: "fault", message: `frame type ${type} is not an event of a container` };
  }
}
