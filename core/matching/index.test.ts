import fc from "fast-check";
import { expect, test } from "vitest";
import { addressBytes, addressText, isWithin, mappedAddress, parsePrefix } from "./address.ts";
import { compileDomainIndex, matchesDomain, parseDomainPattern } from "./domain.ts";
import { compileAddressIndex, compilePortIndex } from "./number-index.ts";
import { compilePattern } from "./pattern.ts";
import { compileTextIndex } from "./text-index.ts";

const word = fc.string({ unit: fc.constantFrom("a", "b", "/", "*"), maxLength: 7 });
const text = fc.string({ unit: fc.constantFrom("a", "b", "/"), maxLength: 9 });

test("an index of texts finds what going through the list finds", () => {
  fc.assert(
    fc.property(fc.array(word, { maxLength: 12 }), text, (sources, value) => {
      const expected = sources.findIndex((source) => compilePattern(source).matches(value));
      expect(compileTextIndex(sources).find(value)).toBe(expected);
    }),
    { numRuns: 5_000 },
  );
});

test("what lies below a folder is found by what a text begins with, or by what matches the folder itself", () => {
  fc.assert(
    fc.property(fc.array(word, { maxLength: 12 }), fc.constantFrom("a", "b", "a/b", "b/a"), (sources, folder) => {
      const index = compileTextIndex(sources);
      const begins = (source: string) => source.split("*")[0]?.startsWith(`${folder}/`);
      expect(index.findBelow(folder) >= 0).toBe(sources.some(begins) || index.find(`${folder}/`) >= 0);
    }),
    { numRuns: 5_000 },
  );
});

const octet = fc.integer({ min: 0, max: 3 });
const ipv4 = fc.tuple(octet, octet, octet, octet).map((parts) => parts.join("."));
const prefix = fc.oneof(
  fc.tuple(ipv4, fc.integer({ min: 0, max: 32 })).map(([address, length]) => `${address}/${length}`),
  fc.integer({ min: 0, max: 128 }).map((length) => `2001:db8::1/${length}`),
);

test("an index of prefixes finds what going through the list finds", () => {
  fc.assert(
    fc.property(fc.array(prefix, { maxLength: 12 }), ipv4, (texts, address) => {
      const prefixes = texts.map((each) => parsePrefix(each) as NonNullable<ReturnType<typeof parsePrefix>>);
      const bytes = Uint8Array.from(address.split(".").map(Number));
      const expected = prefixes.findIndex((each) => isWithin(each, mappedAddress(bytes)));
      expect(compileAddressIndex(prefixes).find(bytes)).toBe(expected);
    }),
    { numRuns: 5_000 },
  );
});

test("an index of ports finds what going through the list finds, of few ranges and of many", () => {
  const port = fc.integer({ min: 0, max: 65_535 });
  const range = fc.tuple(port, port).map(([a, b]) => ({ first: Math.min(a, b), last: Math.max(a, b) }));
  fc.assert(
    fc.property(fc.array(range, { maxLength: 40 }), port, (ranges, value) => {
      const expected = ranges.findIndex(({ first, last }) => value >= first && value <= last);
      expect(compilePortIndex(ranges).find(value)).toBe(expected);
    }),
    { numRuns: 500 },
  );
});

const label = fc.constantFrom("a", "b", "example", "com");
const domain = fc.array(label, { minLength: 1, maxLength: 4 }).map((labels) => labels.join("."));
const domainPattern = fc.tuple(fc.boolean(), domain).map(([isSuffix, name]) => (isSuffix ? `*.${name}` : name));

test("an index of domains finds what going through the list finds", () => {
  fc.assert(
    fc.property(fc.array(domainPattern, { maxLength: 12 }), domain, (sources, name) => {
      const patterns = sources.map(
        (each) => parseDomainPattern(each) as NonNullable<ReturnType<typeof parseDomainPattern>>,
      );
      const expected = patterns.find((pattern) => matchesDomain(pattern, name));
      expect(compileDomainIndex(patterns).find(name)).toBe(expected);
    }),
    { numRuns: 5_000 },
  );
});

test("ten thousand patterns made to explode are answered", () => {
  const sources = Array.from({ length: 10_000 }, (_, i) => `/${"*a".repeat(8)}*${i}`);
  expect(compileTextIndex(sources).find(`/${"a".repeat(4_000)}`)).toBe(-1);
});

test.each(["192.0.2.7", "0.0.0.0", "2001:db8::5", "::", "::1", "fe80::1:0:0:2"])(
  "%s is the same from text to bytes and back",
  (text) => {
    const bytes = addressBytes(text);
    expect(bytes.length).toBe(text.includes(":") ? 16 : 4);
    expect(addressText(bytes)).toBe(text);
  },
);
