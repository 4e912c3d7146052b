import { isIP } from "node:net";

/** The bits of an address as one number. */
export function addressBits(address: string): { readonly bits: bigint; readonly width: 32 | 128 } {
  if (isIP(address) === 4) {
    const bits = address.split(".").reduce((sum, part) => (sum << 8n) | BigInt(part), 0n);
    return { bits, width: 32 };
  }
  const [head = "", tail] = address.replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, fourAsTwo).split("::");
  const left = head === "" ? [] : head.split(":");
  const right = tail === undefined || tail === "" ? [] : tail.split(":");
  const zeros = tail === undefined ? [] : Array<string>(8 - left.length - right.length).fill("0");
  const bits = [...left, ...zeros, ...right].reduce((sum, part) => (sum << 16n) | BigInt(`0x${part}`), 0n);
  return { bits, width: 128 };
}

function fourAsTwo(_: string, a: string, b: string, c: string, d: string): string {
  const hex = (high: string, low: string) => ((Number(high) << 8) | Number(low)).toString(16);
  return `${hex(a, b)}:${hex(c, d)}`;
}

/** A prefix as text: the address with the bits behind the prefix cleared, IPv6 in eight full groups. */
export function prefixText(bits: bigint, width: 32 | 128, length: number): string {
  const shift = BigInt(width - length);
  const cleared = (bits >> shift) << shift;
  const size = width === 32 ? 8n : 16n;
  const parts = Array.from({ length: width === 32 ? 4 : 8 }, (_, i) => {
    const part = (cleared >> (BigInt(width) - size * BigInt(i + 1))) & ((1n << size) - 1n);
    return width === 32 ? String(part) : part.toString(16);
  });
  return `${parts.join(width === 32 ? "." : ":")}/${length}`;
}

/** A prefix as 16 bytes and the bits of them that count; IPv4 lies in ::ffff:0:0/96, as everywhere in the sensor. */
export interface AddressPrefix {
  readonly bytes: Uint8Array;
  readonly length: number;
}

const MAPPED = 0xffffn << 32n;

function toBytes(bits: bigint): Uint8Array {
  return Uint8Array.from({ length: 16 }, (_, i) => Number((bits >> BigInt(120 - 8 * i)) & 0xffn));
}

/** The 4 or 16 bytes of an address. The text must be one. */
export function addressBytes(address: string): Uint8Array {
  const { bits, width } = addressBits(address);
  return toBytes(bits).subarray(16 - width / 8);
}

/** Reads an address or a CIDR prefix; undefined where the text is neither. */
export function parsePrefix(text: string): AddressPrefix | undefined {
  const [address = "", lengthText] = text.split("/");
  // A zone is of one machine and no part of an address.
  if (isIP(address) === 0 || address.includes("%")) return undefined;
  const { bits, width } = addressBits(address);
  const length = lengthText === undefined || lengthText === "" ? width : Number(lengthText);
  if (!Number.isInteger(length) || length < 0 || length > width) return undefined;
  const isIpv4 = width === 32;
  return { bytes: toBytes(isIpv4 ? bits | MAPPED : bits), length: isIpv4 ? length + 96 : length };
}

/** True if an address, 16 bytes, lies in a prefix. */
export function isWithin({ bytes, length }: AddressPrefix, address: Uint8Array): boolean {
  const whole = length >> 3;
  for (let i = 0; i < whole; i += 1) if (bytes[i] !== address[i]) return false;
  const rest = length & 7;
  if (rest === 0) return true;
  const mask = (0xff00 >> rest) & 0xff;
  return ((bytes[whole] ?? 0) & mask) === ((address[whole] ?? 0) & mask);
}

/** An address of 4 or 16 bytes as 16. */
export function mappedAddress(address: Uint8Array): Uint8Array {
  if (address.length === 16) return address;
  const mapped = new Uint8Array(16);
  mapped.fill(0xff, 10, 12);
  mapped.set(address.subarray(0, 4), 12);
  return mapped;
}

/** Groups of the longest run of zeros become `::` (RFC 5952). */
function compressed(groups: readonly string[]): string {
  const zeros = /(^|:)0(:0)+(:|$)/g;
  const text = groups.join(":");
  const longest = [...text.matchAll(zeros)].sort((a, b) => b[0].length - a[0].length)[0];
  if (!longest) return text;
  return `${text.slice(0, longest.index)}::${text.slice(longest.index + longest[0].length)}`;
}

/** An address of 4 or 16 bytes as text. */
export function addressText(address: Uint8Array): string {
  if (address.length === 4) return address.join(".");
  const groups = Array.from({ length: 8 }, (_, i) =>
    (((address[2 * i] ?? 0) << 8) | (address[2 * i + 1] ?? 0)).toString(16),
  );
  return address.length === 16 ? compressed(groups) : "";
}
