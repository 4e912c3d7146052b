import { create, type MessageInitShape } from "@bufbuild/protobuf";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { ContainerSchema } from "#gen/gabion/workload/v1/workload_pb.ts";
import { compileScope } from "../matching/scope.ts";
import { deadParts, shadowedRules } from "./rule-lint.ts";

type Init = MessageInitShape<typeof RuleSchema>;

const rule = (init: Init) => create(RuleSchema, init);

test.each<[Init["scope"], Init["scope"], boolean]>([
  [{}, { images: ["nginx:*"] }, true],
  [{ images: ["*"] }, {}, true],
  [{ images: ["nginx*"] }, { images: ["nginx:1.27"] }, true],
  [{ images: ["nginx:*"] }, { images: ["docker.io/library/nginx:*"] }, true],
  [{ images: ["nginx:*"] }, { images: ["nginx:*", "redis:*"] }, false],
  [{ images: ["nginx:*", "redis:*"] }, { images: ["redis:7"], hosts: ["a"] }, true],
  [{ hosts: ["a"] }, { images: ["redis:7"] }, false],
  [{ namespaces: ["*", "-kube-*"] }, { namespaces: ["shop"] }, false],
  [{ namespaces: ["*", "-kube-*"] }, { namespaces: ["*", "-kube-*"] }, true],
  [{ namespaces: ["*", "-kube-system"] }, { namespaces: ["*", "-kube-*"] }, true],
  [{ labels: ["Tier:*"] }, { labels: ["tier:front"] }, true],
])("behind a rule for %j, one for %j is never reached: %s", (first, second, isShadowed) => {
  const rules = [rule({ name: "a", scope: first }), rule({ name: "b", scope: second })] as const;
  expect(shadowedRules(rules).get(rules[1])).toBe(isShadowed ? rules[0] : undefined);
});

test("a rule that is said to be shadowed never applies", () => {
  const pattern = fc.constantFrom("*", "a*", "ab", "*b", "-a*", "-ab", "b");
  const scope = fc.record({
    containers: fc.array(pattern, { maxLength: 3 }),
    hosts: fc.array(pattern, { maxLength: 2 }),
  });
  const name = fc.constantFrom("ab", "a", "b", "aab", "c");
  fc.assert(
    fc.property(scope, scope, name, name, (first, second, container, nodeId) => {
      const rules = [rule({ scope: first }), rule({ scope: second })] as const;
      if (!shadowedRules(rules).has(rules[1])) return;
      const named = create(ContainerSchema, { name: container, nodeId });
      const isBoth = compileScope(rules[1].scope)(named).isMatch && !compileScope(rules[0].scope)(named).isMatch;
      expect(isBoth).toBe(false);
    }),
    { numRuns: 5_000 },
  );
});

test("disabled rules neither shadow nor are shadowed", () => {
  const rules = [rule({ isDisabled: true }), rule({}), rule({ isDisabled: true })];
  expect(shadowedRules(rules).size).toBe(0);
});

test("entries that can change nothing are found", () => {
  const found = deadParts(
    rule({
      process: {
        effect: Effect.ALERT,
        allowed: [
          { process: "/opt/x" },
          { process: "/bin/ls" },
          { process: "/bin/ls" },
          { process: "/bin/a", sha256: "a".repeat(64) },
        ],
        denied: [{ process: "/opt/*" }, { process: "nc" }],
      },
      network: {
        effect: Effect.ALERT,
        allowed: {
          outboundAddresses: ["10.1.0.0/16", "192.0.2.1"],
          outboundPorts: [
            { first: 80, last: 80 },
            { first: 1, last: 1024 },
            { first: 443, last: 443 },
          ],
        },
        denied: { outboundAddresses: ["10.0.0.0/8"], outboundPorts: [{ first: 22, last: 23 }] },
      },
      dns: {
        effect: Effect.ALERT,
        allowed: ["a.example.com", "*.b.example.com", "x.org"],
        denied: ["*.example.com", "*.y.example.com"],
      },
      filesystem: { effect: Effect.DISABLE, denied: ["/etc/*"] },
      syscall: { effect: Effect.ALERT, denied: ["bpf", "ptrace", "bpf"] },
    }),
  );
  expect(found.map(({ field, message }) => `${field}: ${message}`)).toEqual([
    "filesystem: the section is off, so its lists do nothing",
    "process.allowed[0]: `/opt/x` is denied too, by `/opt/*`, and denied wins",
    "process.allowed[2]: `/bin/ls` can be left out: `/bin/ls` names it before",
    "network.allowed.outbound_ports[2]: `443` can be left out: `1-1024` names it before",
    "network.allowed.outbound_addresses[0]: `10.1.0.0/16` is denied too, by `10.0.0.0/8`, and denied wins",
    "dns.allowed[0]: `a.example.com` is denied too, by `*.example.com`, and denied wins",
    "dns.allowed[1]: `*.b.example.com` is denied too, by `*.example.com`, and denied wins",
    "dns.denied[1]: `*.y.example.com` can be left out: `*.example.com` names it before",
    "syscall.denied[2]: `bpf` can be left out: `bpf` names it before",
  ]);
});

test.each<[Init["scope"], string]>([
  [{ images: ["nginx:*", "-nginx*"] }, "scope.images"],
  [{ hosts: ["-*"] }, "scope.hosts"],
  [{ labels: ["tier"] }, "scope.labels"],
])("a scope of %j that nothing can be in is found", (scope, field) => {
  expect(deadParts(rule({ scope })).map((found) => found.field)).toEqual([field]);
});
