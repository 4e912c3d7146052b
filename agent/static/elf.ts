/** What an ELF program says of how it is loaded (System V ABI, gABI 4.1). */
export interface ElfProgram {
  /** Dynamic loader; undefined for a static program or a library. */
  readonly interpreter: string | undefined;
  readonly needed: readonly string[];
  /** DT_RUNPATH, or DT_RPATH where there is none; `$ORIGIN` as it stands. */
  readonly searched: readonly string[];
}

/** Reads a part of a file; shorter where the file ends before it. */
export type ReadAt = (at: number, length: number) => Buffer;

const HEADER_BYTES = 64;
const DYNAMIC_MAX_BYTES = 64 * 1024;
const TEXT_MAX_BYTES = 4_096;
const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const DT_NEEDED = 1;
const DT_STRTAB = 5;
const DT_RPATH = 15;
const DT_RUNPATH = 29;
const SEGMENTS_MAX = 64;
const NAMES_MAX = 256;
const FOLDERS_MAX = 16;

interface Segment {
  readonly type: number;
  readonly offset: number;
  readonly address: number;
  readonly size: number;
}

/** True for the beginning of an ELF file. */
export function isElf(bytes: Buffer): boolean {
  return bytes.length >= 4 && bytes.readUInt32BE(0) === 0x7f454c46;
}

function textAt(read: ReadAt, at: number): string {
  const bytes = read(at, TEXT_MAX_BYTES);
  const end = bytes.indexOf(0);
  return end < 0 ? "" : bytes.toString("latin1", 0, end);
}

/** Numbers of either width; little endian only, as all that Gabion runs on. */
function wordAt(bytes: Buffer, at: number, is64: boolean): number {
  return is64 ? Number(bytes.readBigUInt64LE(at)) : bytes.readUInt32LE(at);
}

function segmentsOf(header: Buffer, read: ReadAt, is64: boolean): Segment[] {
  const size = header.readUInt16LE(is64 ? 54 : 42);
  const count = Math.min(SEGMENTS_MAX, header.readUInt16LE(is64 ? 56 : 44));
  const table = read(wordAt(header, is64 ? 32 : 28, is64), size * count);
  return Array.from({ length: count }, (_, i) => {
    const entry = table.subarray(i * size);
    return {
      type: entry.readUInt32LE(0),
      offset: wordAt(entry, is64 ? 8 : 4, is64),
      address: wordAt(entry, is64 ? 16 : 8, is64),
      size: wordAt(entry, is64 ? 32 : 16, is64),
    };
  });
}

function dynamicOf(bytes: Buffer, is64: boolean): [tag: number, value: number][] {
  const width = is64 ? 16 : 8;
  const entries = Array.from({ length: Math.floor(bytes.length / width) }, (_, i): [number, number] => [
    wordAt(bytes, i * width, is64),
    wordAt(bytes, i * width + width / 2, is64),
  ]);
  const end = entries.findIndex(([tag]) => tag === 0);
  return end < 0 ? entries : entries.slice(0, end);
}

/** Reads a program; undefined where it is none, is cut off, or is of another byte order. */
export function parseElf(read: ReadAt): ElfProgram | undefined {
  const header = read(0, HEADER_BYTES);
  if (!isElf(header) || header[5] !== 1) return undefined;
  const is64 = header[4] === 2;
  try {
    const segments = segmentsOf(header, read, is64);
    const interp = segments.find(({ type }) => type === PT_INTERP);
    const dynamic = segments.find(({ type }) => type === PT_DYNAMIC);
    const interpreter = interp && textAt(read, interp.offset);
    if (!dynamic) return { interpreter, needed: [], searched: [] };
    const entries = dynamicOf(read(dynamic.offset, Math.min(dynamic.size, DYNAMIC_MAX_BYTES)), is64);
    const table = entries.find(([tag]) => tag === DT_STRTAB)?.[1] ?? 0;
    const load = segments.find(
      ({ type, address, size }) => type === PT_LOAD && table >= address && table < address + size,
    );
    const strings = load ? table - load.address + load.offset : table;
    const texts = (wanted: number) =>
      entries.filter(([tag]) => tag === wanted).map(([, value]) => textAt(read, strings + value));
    const runpath = texts(DT_RUNPATH);
    const searched = (runpath.length > 0 ? runpath : texts(DT_RPATH)).flatMap((text) => text.split(":"));
    const needed = texts(DT_NEEDED).filter((name) => name !== "");
    return { interpreter, needed: needed.slice(0, NAMES_MAX), searched: searched.slice(0, FOLDERS_MAX) };
  } catch {
    return undefined;
  }
}
