import { create } from "@bufbuild/protobuf";
import { ContentState, Section, EventSchema } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState, ModelPolicySchema } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { compileContainerPolicy, SECTIONS } from "#core/policy/container-policy.ts";
import { evaluateProcess } from "#core/policy/process-policy.ts";
import { evaluateConnect } from "#core/policy/network-policy.ts";
import { evaluateDnsQuery } from "#core/policy/dns-policy.ts";
import { evaluateFile } from "#core/policy/file-policy.ts";
import { evaluateSyscall } from "#core/policy/syscall-policy.ts";
import { DEFAULT_TREATMENT } from "#core/policy/treatment.ts";
import { toProcessEvent } from "#core/policy/process-event.ts";
const N = Number(process.argv[2] ?? 1000);
const range = (f: (i: number) => any) => Array.from({ length: N }, (_, i) => f(i));
const rule = create(RuleSchema, { name: "r",
  process: { effect: Effect.ALERT, allowed: range(i => ({ process: `/opt/a/${i}` })), denied: range(i => ({ process: i % 10 ? `/opt/d/${i}` : `/opt/*/x${i}` })), detectors: { drift: {}, crypto_miner: {}, reverse_shell: {}, lateral_movement: {}, intel: {} } },
  network: { effect: Effect.ALERT, allowed: { outboundAddresses: range(i => `10.${i >> 8}.${i & 255}.0/24`), outboundPorts: range(i => ({ first: 20000 + i, last: 20000 + i })) }, denied: { outboundAddresses: range(i => `198.${i >> 8}.${i & 255}.0/24`) } },
  dns: { effect: Effect.ALERT, allowed: range(i => i % 2 ? `*.a${i}.example` : `b${i}.example`), denied: range(i => `*.d${i}.example`) },
  filesystem: { effect: Effect.ALERT, allowed: range(i => i % 2 ? `/var/${i}/*` : `/srv/${i}`), denied: range(i => `/etc/${i}`) },
  syscall: { effect: Effect.ALERT },
});
const model = create(ModelPolicySchema, { modelKey: "m", sections: SECTIONS.map(section => ({ section, state: LearningState.ACTIVE, facts: section === Section.PROCESS ? Array.from({ length: 300 }, (_, i) => ({ kind: { case: "process", value: { path: `/bin/p${i}`, name: `p${i}`, contentState: 1 } } })) : [] })) });
let t = performance.now();
const policy = compileContainerPolicy(rule, model as any, DEFAULT_TREATMENT);
console.log("compile ms", performance.now() - t);
const pe = toProcessEvent(create(EventSchema, { kind: { case: "exec", value: { process: { path: "/bin/p7", name: "p7", invokedPath: "/bin/p7", contentState: 1 } } } }).kind.value as any);
const runs: [string, () => unknown][] = [
  ["process known", () => evaluateProcess(policy.process, pe)],
  ["process unknown", () => evaluateProcess(policy.process, { ...pe, path: "/bin/zz" })],
  ["connect", () => evaluateConnect(policy.network, { transport: 1, address: new Uint8Array([8, 8, 8, 8]), port: 443, domain: "", isInternet: true, isLoopback: false, isDirect: false })],
  ["dns", () => evaluateDnsQuery(policy.dns, { name: "www.example.com", recordType: 1, isMalformed: false })],
  ["file", () => evaluateFile(policy.filesystem, { operation: 1, path: "/data/x", newPath: "", processPath: "/bin/x", isExecutable: false })],
  ["syscall", () => evaluateSyscall(policy.syscall, { name: "open", isCompat: false })],
];
for (const [name, run] of runs) { for (let i = 0; i < 2000; i++) run(); const n = 20000; t = performance.now(); for (let i = 0; i < n; i++) run(); const us = (performance.now() - t) * 1000 / n; console.log(name, us.toFixed(2), "us", Math.round(1e6 / us), "/s"); }
