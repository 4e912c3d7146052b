import fc from "fast-check";
import { expect, test } from "vitest";
import { escapeBytes, printable, unescapeText } from "./escape.ts";

test("every byte string survives being escaped and unescaped", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      expect(Buffer.from(unescapeText(escapeBytes(bytes)))).toEqual(Buffer.from(bytes));
    }),
    { numRuns: 1_000 },
  );
});

test("different byte strings have different escaped forms", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 8 }), fc.uint8Array({ maxLength: 8 }), (a, b) => {
      expect(escapeBytes(a) === escapeBytes(b)).toBe(Buffer.from(a).equals(Buffer.from(b)));
    }),
    { numRuns: 2_000 },
  );
});

test("no escaped text can drive a terminal", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      expect(escapeBytes(bytes)).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/u);
    }),
    { numRuns: 1_000 },
  );
});

test.each([
  ["/bin/sh", "/bin/sh"],
  ["/tmp/\u001b[31mred", "/tmp/\\x1b[31mred"],
  ["a\\x41", "a\\\\x41"],
  ["grüße", "grüße"],
  ["\u202egnp.exe", "\\xe2\\x80\\xaegnp.exe"],
])("%j is shown as %s", (text, shown) => {
  expect(escapeBytes(Buffer.from(text))).toBe(shown);
});

test("bytes that are no UTF-8 are shown as hex", () => {
  expect(escapeBytes(Buffer.from([0x2f, 0xff, 0xc0, 0xaf, 0x41]))).toBe("/\\xff\\xc0\\xafA");
});

test("printable leaves escaped text as it is and takes control characters out", () => {
  expect(printable("a \\x1b b")).toBe("a \\x1b b");
  expect(printable("a\u001b[2Jb")).toBe("a\\x1b[2Jb");
});
