import { readFileSync } from "node:fs";
import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { expect, test } from "vitest";
import { ScopeSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import { canonicalImage } from "./image-name.ts";
import { compilePattern } from "./pattern.ts";
import { compileScope } from "./scope.ts";
import { parseScopeTable, scopeMarkdown } from "./scope-table.ts";

test.each([
  ["/bin/*", "/bin/sh", true],
  ["/bin/*", "/usr/bin/sh", false],
  ["*sh", "/bin/bash", true],
  ["a*b*c", "abc", true],
  ["a*b*c", "acb", false],
  ["*", "", true],
  ["aa*aa", "aaa", false],
  ["", "", true],
  ["a.b", "axb", false],
])("pattern %s on %s: %s", (pattern, text, answer) => {
  expect(compilePattern(pattern).matches(text)).toBe(answer);
});

test("a pattern matches what its regular expression matches", () => {
  const word = fc.string({ unit: fc.constantFrom("a", "b", "*"), maxLength: 8 });
  const text = fc.string({ unit: fc.constantFrom("a", "b"), maxLength: 12 });
  fc.assert(
    fc.property(word, text, (pattern, value) => {
      const reference = new RegExp(`^${pattern.replaceAll("*", ".*")}$`);
      expect(compilePattern(pattern).matches(value)).toBe(reference.test(value));
    }),
    { numRuns: 5_000 },
  );
});

test("a pattern made to explode is answered", () => {
  expect(compilePattern(`${"*a".repeat(200)}*b`).matches("a".repeat(4_000))).toBe(false);
});

test.each([
  ["nginx", "docker.io/library/nginx:latest"],
  ["nginx:1.27", "docker.io/library/nginx:1.27"],
  ["bitnami/redis", "docker.io/bitnami/redis:latest"],
  ["ghcr.io/x/y:v1", "ghcr.io/x/y:v1"],
  ["localhost:5000/a", "localhost:5000/a:latest"],
  [`nginx@sha256:${"a".repeat(64)}`, `docker.io/library/nginx@sha256:${"a".repeat(64)}`],
])("image %s is %s", (name, canonical) => {
  expect(canonicalImage(name)).toBe(canonical);
});

const table = parseScopeTable(readFileSync(new URL("testdata/scope.json", import.meta.url), "utf8"));
const { containers, cases } = table;

test.each(cases)("$container in $scope: $isMatch ($why)", ({ container, scope, isMatch }) => {
  const found = containers[container] as Container;
  expect(compileScope(create(ScopeSchema, scope))(found).isMatch).toBe(isMatch);
});

test("SCOPE.md says what the table says", () => {
  expect(readFileSync(new URL("SCOPE.md", import.meta.url), "utf8")).toBe(scopeMarkdown(table));
});

test("a scope that does not match says which field and why", () => {
  const answer = compileScope(create(ScopeSchema, { namespaces: ["a", "b*"] }))(containers["web"] as Container);
  expect(answer).toEqual({ isMatch: false, reason: "namespace: `shop` matches none of `a`, `b*`" });
});
