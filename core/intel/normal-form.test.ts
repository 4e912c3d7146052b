import { expect, test } from "vitest";
import { IndicatorType as T } from "#gen/gabion/intel/v1/intel_pb.ts";
import { candidates, guessType, normalForm } from "./normal-form.ts";

test.each([
  [T.DOMAIN, "Evil.Example.", "evil.example"],
  [T.DOMAIN, "*.evil.example", "evil.example"],
  [T.DOMAIN, "bücher.example", "xn--bcher-kva.example"],
  [T.PREFIX, "192.0.2.77/24", "192.0.2.0/24"],
  [T.PREFIX, "192.0.2.77", "192.0.2.77/32"],
  [T.PREFIX, "2001:DB8::1/32", "2001:db8:0:0:0:0:0:0/32"],
  [T.PREFIX, "::ffff:192.0.2.1", "0:0:0:0:0:ffff:c000:201/128"],
  [T.SHA256, "A".repeat(64), "a".repeat(64)],
])("%s %s is %s", (type, text, value) => {
  expect(normalForm(type, text)).toEqual({ value });
});

test.each([
  [T.DOMAIN, "localhost"],
  [T.DOMAIN, "a..b"],
  [T.DOMAIN, `${"a".repeat(64)}.example`],
  [T.PREFIX, "192.0.2.0/33"],
  [T.PREFIX, "192.0.2.0/"],
  [T.PREFIX, "300.1.1.1"],
  [T.SHA256, "abc"],
])("%s %s is refused", (type, text) => {
  expect(normalForm(type, text)).toHaveProperty("fault");
});

test("an object is looked for under everything that contains it, most exact first", () => {
  expect(candidates(T.DOMAIN, "a.b.example")).toEqual(["a.b.example", "b.example"]);
  expect(candidates(T.PREFIX, "192.0.2.1/32")).toHaveLength(33);
  expect(candidates(T.PREFIX, "192.0.2.1/32")[8]).toBe("192.0.2.0/24");
  expect([guessType("1.2.3.4"), guessType("a.example"), guessType("b".repeat(64))]).toEqual([
    T.PREFIX,
    T.DOMAIN,
    T.SHA256,
  ]);
});
