/**
 * Text from containers is bytes. Everywhere outside the sensor it is carried in one escaped form that is valid UTF-8,
 * safe to print, and reversible: printable characters stay, a backslash is `\\`, every other byte is `\xNN`.
 * Equal text therefore means equal bytes.
 */

const utf8 = new TextDecoder("utf-8", { fatal: true });
/** Control characters, bidirectional overrides and line separators: none of them may reach a terminal raw. */
const UNSAFE = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\\]/u;
const PLAIN_ASCII = /^[\x20-\x5b\x5d-\x7e]*$/;

/** First bytes of UTF-8 sequences and the length that they announce (RFC 3629). */
const LEAD_BYTES = [
  { from: 0x00, to: 0x7f, length: 1 },
  { from: 0xc2, to: 0xdf, length: 2 },
  { from: 0xe0, to: 0xef, length: 3 },
  { from: 0xf0, to: 0xf4, length: 4 },
];

/** Length in bytes of the UTF-8 sequence that begins at `at`, or 0 if none does. */
function sequenceLength(bytes: Uint8Array, at: number): number {
  const first = bytes[at] ?? 0;
  const length = LEAD_BYTES.find(({ from, to }) => first >= from && first <= to)?.length ?? 0;
  if (length === 0 || at + length > bytes.length) return 0;
  try {
    utf8.decode(bytes.subarray(at, at + length));
    return length;
  } catch {
    return 0;
  }
}

function hex(byte: number): string {
  return `\\x${byte.toString(16).padStart(2, "0")}`;
}

function escapeSlow(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length; ) {
    const length = sequenceLength(bytes, at);
    if (length === 0) {
      text += hex(bytes[at] as number);
      at += 1;
      continue;
    }
    const character = utf8.decode(bytes.subarray(at, at + length));
    if (character === "\\") text += "\\\\";
    else if (UNSAFE.test(character) || character === "")
      for (const b of bytes.subarray(at, at + length)) text += hex(b);
    else text += character;
    at += length;
  }
  return text;
}

/** The escaped form of bytes from a container. */
export function escapeBytes(bytes: Uint8Array): string {
  const latin = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
  return PLAIN_ASCII.test(latin) ? latin : escapeSlow(bytes);
}

/** The bytes behind an escaped text. A stray backslash stands for itself. */
export function unescapeText(text: string): Uint8Array {
  if (!text.includes("\\")) return Buffer.from(text, "utf8");
  const parts: Buffer[] = [];
  for (const [part] of text.matchAll(/\\x[0-9a-f]{2}|\\\\|\\|[^\\]+/g)) {
    if (part.startsWith("\\x")) parts.push(Buffer.from([Number.parseInt(part.slice(2), 16)]));
    else parts.push(Buffer.from(part.startsWith("\\") ? "\\" : part, "utf8"));
  }
  return Buffer.concat(parts);
}

/** Text of any origin made safe to print: for what does not come in escaped form already. */
export function printable(text: string): string {
  return UNSAFE.test(text)
    ? text.replace(new RegExp(UNSAFE, "gu"), (c) => (c === "\\" ? c : escapeBytes(Buffer.from(c))))
    : text;
}
