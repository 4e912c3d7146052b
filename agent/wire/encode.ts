import type { KernelAction, KernelEntry, KernelSlot } from "#core/policy/kernel-slot.ts";
import { unescapeText } from "#core/text/escape.ts";
import { Action, CONTENT_IMAGE, EntryKind, FrameType, LAYOUT, MAX_FRAME_BYTES, WIRE_VERSION } from "./layout.ts";

const CONTROL = LAYOUT.control_frame;
const ENTRY = LAYOUT.slot_entry;
const FILE = LAYOUT.file_entry;
/** A frame is filled up to here, so that one more entry of any length always fits. */
const FILL_BYTES = MAX_FRAME_BYTES - 64 * 1024;

const ACTIONS: Record<KernelAction, number> = {
  allow: Action.ALLOW,
  ask: Action.ASK,
  audit: Action.AUDIT,
  kill: Action.KILL_PROCESS,
  kill_container: Action.KILL_CONTAINER,
};

/** A file whose content is known, by identity. */
export interface KnownFile {
  readonly inode: bigint;
  /** major << 20 | minor. */
  readonly device: number;
  readonly ctimeNs: bigint;
  /** `image`, or the SHA-256 of the content. */
  readonly content: string;
}

interface ControlFields {
  readonly slot?: number;
  readonly cgroupId?: bigint;
  readonly flags?: number;
  readonly count?: number;
  readonly path?: string;
  readonly defaultAction?: KernelAction;
  readonly foreignAction?: KernelAction;
  readonly device?: number;
}

function padded(length: number): number {
  return (length + 7) & ~7;
}

/** One order to the sensor. */
export function encodeControl(type: FrameType, request: number, fields: ControlFields, body?: Buffer): Buffer {
  const path = Buffer.from(fields.path ?? "", "utf8");
  const payload = body ?? path;
  const frame = Buffer.alloc(padded(CONTROL.size + payload.length));
  const at = CONTROL.fields;
  frame.writeUInt32LE(frame.length, LAYOUT.gabion_frame.fields.length);
  frame.writeUInt16LE(type, LAYOUT.gabion_frame.fields.type);
  frame.writeUInt8(WIRE_VERSION, LAYOUT.gabion_frame.fields.version);
  frame.writeUInt32LE(request, at.request);
  frame.writeUInt32LE(fields.slot ?? 0, at.slot);
  frame.writeBigUInt64LE(fields.cgroupId ?? 0n, at.cgroup_id);
  frame.writeUInt32LE(fields.flags ?? 0, at.flags);
  frame.writeUInt32LE(fields.count ?? 0, at.count);
  frame.writeUInt32LE(path.length, at.path_length);
  frame.writeUInt32LE(ACTIONS[fields.defaultAction ?? "ask"], at.default_action);
  frame.writeUInt32LE(ACTIONS[fields.foreignAction ?? "ask"], at.foreign_action);
  frame.writeUInt32LE(fields.device ?? 0, at.device);
  payload.copy(frame, CONTROL.size);
  return frame;
}

/** The kernel's 64-bit name for a content: 1 for the image's own, else the start of its SHA-256. */
export function contentNumber(content: string): bigint {
  return content === "image" ? CONTENT_IMAGE : BigInt(`0x${content.slice(0, 16)}`);
}

function encodeEntry(entry: KernelEntry, number: number): Buffer {
  const isItem = entry.kind === "item" || entry.kind === "item_content";
  const first = unescapeText(isItem ? entry.path : entry.text);
  const second = unescapeText(isItem ? entry.name : "");
  const kind = EntryKind[entry.kind.toUpperCase() as keyof typeof EntryKind];
  const bytes = Buffer.alloc(padded(ENTRY.size + first.length + second.length));
  bytes.writeUInt16LE(kind, ENTRY.fields.kind);
  bytes.writeUInt16LE(ACTIONS[entry.action], ENTRY.fields.action);
  bytes.writeUInt32LE(number, ENTRY.fields.entry);
  bytes.writeBigUInt64LE(entry.kind === "item_content" ? contentNumber(entry.content) : 0n, ENTRY.fields.content);
  bytes.writeUInt16LE(first.length, ENTRY.fields.first_length);
  bytes.writeUInt16LE(second.length, ENTRY.fields.second_length);
  bytes.set(first, ENTRY.size);
  bytes.set(second, ENTRY.size + first.length);
  return bytes;
}

interface Chunk {
  readonly count: number;
  readonly body: Buffer;
}

function chunked(pieces: Iterable<Buffer>): Chunk[] {
  const chunks: Chunk[] = [];
  let held: Buffer[] = [];
  let size = 0;
  const close = () => chunks.push({ count: held.length, body: Buffer.concat(held) });
  for (const piece of pieces) {
    if (size + piece.length > FILL_BYTES) {
      close();
      held = [];
      size = 0;
    }
    held.push(piece);
    size += piece.length;
  }
  close();
  return chunks;
}

/** A policy slot as orders: as many as its entries need, to be sent before any container is bound to it. */
export function encodeSlot(slot: number, policy: KernelSlot, nextRequest: () => number): [number, Buffer][] {
  const { defaultAction, foreignAction } = policy;
  return chunked(policy.entries.map((entry, index) => encodeEntry(entry, index + 1))).map(({ count, body }) => {
    const request = nextRequest();
    const fields = { slot, count, defaultAction, foreignAction };
    return [request, encodeControl(FrameType.SLOT_LOAD, request, fields, body)];
  });
}

function encodeFile(file: KnownFile): Buffer {
  const bytes = Buffer.alloc(FILE.size);
  bytes.writeBigUInt64LE(file.inode, FILE.fields.inode);
  bytes.writeUInt32LE(file.device, FILE.fields.device);
  bytes.writeBigUInt64LE(file.ctimeNs, FILE.fields.ctime_ns);
  bytes.writeBigUInt64LE(contentNumber(file.content), FILE.fields.content);
  return bytes;
}

/** Files whose content is known, as orders. */
export function encodeFiles(
  type: typeof FrameType.FILES_PUT | typeof FrameType.FILES_DROP,
  files: readonly KnownFile[],
  nextRequest: () => number,
): [number, Buffer][] {
  return chunked(files.map(encodeFile)).map(({ count, body }) => {
    const request = nextRequest();
    return [request, encodeControl(type, request, { count }, body)];
  });
}
