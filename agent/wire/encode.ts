import type { KernelAction, KernelDefaults, KernelEntry, KernelSlot, RefusedPath } from "#core/policy/kernel-slot.ts";
import { unescapeText } from "#core/text/escape.ts";
import {
  Action,
  CONTENT_IMAGE,
  Default,
  EntryKind,
  FrameType,
  LAYOUT,
  MAX_FRAME_BYTES,
  ProtectFlag,
  SYSCALLS,
  WIRE_VERSION,
} from "./layout.ts";

const CONTROL = LAYOUT.control_frame;
const ENTRY = LAYOUT.slot_entry;
const FILE = LAYOUT.file_entry;
const HEAD = LAYOUT.slot_head;
const PROTECT = LAYOUT.protect_entry;
const WATCH = LAYOUT.watch_entry;
/** A frame is filled up to here, so that one more entry of any length always fits. */
const FILL_BYTES = MAX_FRAME_BYTES - 64 * 1024;

const ACTIONS: Record<KernelAction, number> = {
  allow: Action.ALLOW,
  ask: Action.ASK,
  audit: Action.AUDIT,
  prevent: Action.PREVENT,
  block: Action.BLOCK,
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
  readonly device?: number;
}

function padded(length: number): number {
  return (length + 7) & ~7;
}

/** One order to the sensor. */
export function encodeControl(type: FrameType, request: number, fields: ControlFields, body?: Buffer): Buffer {
  const path = Buffer.from(fields.path ?? "", "utf8");
  const head =
    path.length === 0 || body === undefined
      ? path
      : Buffer.concat([path, Buffer.alloc(padded(path.length) - path.length)]);
  const payload = body === undefined ? path : Buffer.concat([head, body]);
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
  frame.writeUInt32LE(fields.device ?? 0, at.device);
  payload.copy(frame, CONTROL.size);
  return frame;
}

/** The kernel's 64-bit name for a content: 1 for the image's own, else the start of its SHA-256. */
export function contentNumber(content: string): bigint {
  return content === "image" ? CONTENT_IMAGE : BigInt(`0x${content.slice(0, 16)}`);
}

/** Texts and numbers of an entry as they are matched. */
function partsOf(entry: KernelEntry): { first: Uint8Array; second: Uint8Array; content: bigint; prefix: number } {
  const none = new Uint8Array();
  const parts = { first: none, second: none, content: 0n, prefix: 0 };
  switch (entry.kind) {
    case "item":
    case "item_content": {
      const content = entry.kind === "item_content" ? contentNumber(entry.content) : 0n;
      return { ...parts, first: unescapeText(entry.path), second: unescapeText(entry.name), content };
    }
    case "file_item":
      return { ...parts, first: unescapeText(entry.directory), second: unescapeText(entry.process) };
    case "destination_item":
      return { ...parts, first: entry.address, content: BigInt((entry.protocol << 16) | entry.port) };
    case "domain_item":
      return { ...parts, first: unescapeText(entry.text), content: BigInt(entry.recordType) };
    default:
      return "bytes" in entry
        ? { ...parts, first: entry.bytes, prefix: entry.prefix }
        : { ...parts, first: unescapeText(entry.text) };
  }
}

function encodeEntry(entry: KernelEntry, number: number): Buffer {
  const { first, second, content, prefix } = partsOf(entry);
  const kind = EntryKind[entry.kind.toUpperCase() as keyof typeof EntryKind];
  const bytes = Buffer.alloc(padded(ENTRY.size + first.length + second.length));
  bytes.writeUInt16LE(kind, ENTRY.fields.kind);
  bytes.writeUInt16LE(ACTIONS[entry.action], ENTRY.fields.action);
  bytes.writeUInt32LE(number, ENTRY.fields.entry);
  bytes.writeBigUInt64LE(content, ENTRY.fields.content);
  bytes.writeUInt16LE(first.length, ENTRY.fields.first_length);
  bytes.writeUInt16LE(second.length, ENTRY.fields.second_length);
  bytes.writeUInt32LE(prefix, ENTRY.fields.prefix);
  bytes.set(first, ENTRY.size);
  bytes.set(second, ENTRY.size + first.length);
  return bytes;
}

const DEFAULTS: Record<keyof KernelDefaults, number> = {
  image: Default.IMAGE,
  foreign: Default.FOREIGN,
  listen: Default.LISTEN,
  connect: Default.CONNECT,
  internal: Default.INTERNAL,
  direct: Default.DIRECT,
  raw: Default.RAW,
  domain: Default.DOMAIN,
  file: Default.FILE,
  executable: Default.EXECUTABLE,
  syscall: Default.SYSCALL,
  syscallDenied: Default.SYSCALL_DENIED,
  stream: Default.STREAM,
  setuid: Default.SETUID,
  rawIcmp: Default.RAW_ICMP,
  badAddress: Default.BAD_ADDRESS,
  badDomain: Default.BAD_DOMAIN,
  foreignResolver: Default.FOREIGN_RESOLVER,
};

function setBits(bytes: Buffer, at: number, numbers: readonly number[]): void {
  for (const number of numbers) {
    if (number >= 2 * SYSCALLS) continue;
    const place = at + (number >> 3);
    bytes.writeUInt8(bytes.readUInt8(place) | (1 << (number & 7)), place);
  }
}

function encodeHead({ defaults, syscallsAllowed, syscallsDenied }: KernelSlot, intelSlot: number): Buffer {
  const bytes = Buffer.alloc(HEAD.size);
  for (const [name, place] of Object.entries(DEFAULTS)) {
    bytes.writeUInt32LE(ACTIONS[defaults[name as keyof KernelDefaults]], HEAD.fields.actions + place * 4);
  }
  setBits(bytes, HEAD.fields.syscalls_allowed, syscallsAllowed);
  setBits(bytes, HEAD.fields.syscalls_denied, syscallsDenied);
  bytes.writeUInt32LE(intelSlot, HEAD.fields.intel_slot);
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
export function encodeSlot(
  slot: number,
  policy: KernelSlot,
  nextRequest: () => number,
  intelSlot = 0,
): [number, Buffer][] {
  const head = encodeHead(policy, intelSlot);
  return chunked(policy.entries.map((entry, index) => encodeEntry(entry, index + 1))).map(({ count, body }) => {
    const request = nextRequest();
    return [request, encodeControl(FrameType.SLOT_LOAD, request, { slot, count }, Buffer.concat([head, body]))];
  });
}

/** A path to refuse, with the folder on the host that is watched for it. */
export interface ProtectEntry extends RefusedPath {
  /** Empty where another entry marks the folder. */
  readonly host: string;
}

function encodeProtected({ path, host, isWrite, isExec, isDirectory, isListed, isMark }: ProtectEntry): Buffer {
  const hostBytes = Buffer.from(host, "latin1");
  const pathBytes = Buffer.from(unescapeText(path));
  const bytes = Buffer.alloc(padded(PROTECT.size + hostBytes.length + pathBytes.length));
  const flags =
    (isWrite ? ProtectFlag.WRITE : 0) |
    (isExec ? ProtectFlag.EXEC : 0) |
    (isDirectory ? ProtectFlag.DIRECTORY : 0) |
    (isMark ? ProtectFlag.MARK : 0) |
    (isListed ? ProtectFlag.LISTED : 0);
  bytes.writeUInt32LE(flags, PROTECT.fields.flags);
  bytes.writeUInt32LE(hostBytes.length, PROTECT.fields.host_length);
  bytes.writeUInt32LE(pathBytes.length, PROTECT.fields.path_length);
  bytes.set(hostBytes, PROTECT.size);
  bytes.set(pathBytes, PROTECT.size + hostBytes.length);
  return bytes;
}

/** Of several lists of entries the first ones that fit into one order, each list whole or cut at its end. */
export function fitProtect(...lists: readonly (readonly ProtectEntry[])[]): {
  readonly entries: ProtectEntry[];
  readonly isComplete: boolean;
} {
  let size = 0;
  const all = lists.flat();
  const first = all.findIndex((entry) => {
    size += encodeProtected(entry).length;
    return size > FILL_BYTES;
  });
  return { entries: first < 0 ? all : all.slice(0, first), isComplete: first < 0 };
}

/** What is refused in a container, as one order; undefined where it is too much for one. */
export function encodeProtect(entries: readonly ProtectEntry[]): Buffer | undefined {
  const body = Buffer.concat(entries.map(encodeProtected));
  return body.length > FILL_BYTES ? undefined : body;
}

/** A mount of a container, whose written files are told. */
export interface WatchedMount {
  readonly mountId: bigint;
  /** On the host, through the root of a process of the container. */
  readonly path: Buffer;
}

export function encodeMounts(mounts: readonly WatchedMount[]): Buffer {
  const pieces = mounts.map(({ mountId, path }) => {
    const bytes = Buffer.alloc(padded(WATCH.size + path.length));
    bytes.writeBigUInt64LE(mountId, WATCH.fields.mount_id);
    bytes.writeUInt32LE(path.length, WATCH.fields.path_length);
    bytes.set(path, WATCH.size);
    return bytes;
  });
  return Buffer.concat(pieces);
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
