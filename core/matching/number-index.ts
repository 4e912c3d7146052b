import { type AddressPrefix, mappedAddress } from "./address.ts";
import { firstPlace } from "./text-index.ts";

/** Finds, of many ranges or prefixes, the first one in their order that holds a port or an address. */
export interface PortIndex {
  /** Place of the first range, or -1. */
  readonly find: (port: number) => number;
}

export interface AddressIndex {
  /** Place of the first prefix, or -1; addresses of 4 or 16 bytes. */
  readonly find: (address: Uint8Array) => number;
}

/** Fewer ranges than this are gone through; more are laid out by port, which takes 256 KiB. */
const FEW = 16;
const PORTS = 65_536;

export function compilePortIndex(ranges: readonly { readonly first: number; readonly last: number }[]): PortIndex {
  if (ranges.length <= FEW) {
    return { find: (port) => ranges.findIndex(({ first, last }) => port >= first && port <= last) };
  }
  const places = new Int32Array(PORTS).fill(-1);
  // The first range that holds a port stands last, over the others.
  for (let index = ranges.length - 1; index >= 0; index -= 1) {
    const { first, last } = ranges[index] as { first: number; last: number };
    places.fill(index, first, last + 1);
  }
  return { find: (port) => places[port] ?? -1 };
}

/** Prefixes of one length, by the bits that count. */
interface OfLength<Key> {
  readonly length: number;
  readonly places: Map<Key, number>;
}

/** Bits of an address before its IPv4 part, where it has one. */
const MAPPED_BITS = 96;

/** The last four bytes as one number, so far as `length` bits of it count. */
function ipv4Key(bytes: Uint8Array, length: number): number {
  const at = bytes.length - 4;
  const high = ((bytes[at] ?? 0) << 24) | ((bytes[at + 1] ?? 0) << 16);
  const all = high | ((bytes[at + 2] ?? 0) << 8) | (bytes[at + 3] ?? 0);
  return length === MAPPED_BITS ? 0 : all & (-1 << (MAPPED_BITS + 32 - length));
}

/** The first `length` bits as text. */
function ipv6Key(bytes: Uint8Array, length: number): string {
  const whole = length >> 3;
  const rest = length & 7;
  const last = rest === 0 ? "" : String.fromCharCode((bytes[whole] ?? 0) & (0xff00 >> rest) & 0xff);
  return String.fromCharCode(...bytes.subarray(0, whole)) + last;
}

function isIpv4(bytes: Uint8Array): boolean {
  if (bytes.length === 4) return true;
  for (let i = 0; i < 12; i += 1) if (bytes[i] !== (i < 10 ? 0 : 0xff)) return false;
  return true;
}

function byLength<Key>(
  prefixes: readonly { readonly prefix: AddressPrefix; readonly index: number }[],
  keyOf: (bytes: Uint8Array, length: number) => Key,
): OfLength<Key>[] {
  const known = new Map<number, Map<Key, number>>();
  for (const { prefix, index } of prefixes) {
    const places = known.get(prefix.length) ?? new Map<Key, number>();
    known.set(prefix.length, places);
    const key = keyOf(prefix.bytes, prefix.length);
    if (!places.has(key)) places.set(key, index);
  }
  return [...known].map(([length, places]) => ({ length, places }));
}

function firstIn<Key>(
  lengths: readonly OfLength<Key>[],
  bytes: Uint8Array,
  keyOf: (bytes: Uint8Array, length: number) => Key,
): number {
  let first = -1;
  for (const { length, places } of lengths) {
    const place = places.get(keyOf(bytes, length)) ?? -1;
    if (place >= 0 && (first < 0 || place < first)) first = place;
  }
  return first;
}

/** One look-up for each length that occurs. */
export function compileAddressIndex(prefixes: readonly AddressPrefix[]): AddressIndex {
  const placed = prefixes.map((prefix, index) => ({ prefix, index }));
  const isMapped = ({ bytes, length }: AddressPrefix) => length >= MAPPED_BITS && isIpv4(bytes);
  const ipv4 = byLength(
    placed.filter(({ prefix }) => isMapped(prefix)),
    ipv4Key,
  );
  const others = byLength(
    placed.filter(({ prefix }) => !isMapped(prefix)),
    ipv6Key,
  );
  return {
    find: (address) =>
      firstPlace([
        ipv4.length > 0 && isIpv4(address) ? firstIn(ipv4, address, ipv4Key) : -1,
        others.length > 0 ? firstIn(others, mappedAddress(address), ipv6Key) : -1,
      ]),
  };
}
