/**
 * How long acts take that policy refuses, for who acts, and from the act to the end of its container under block.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { until } from "../demo/until.ts";
import { AgentRig } from "../sandbox/agent-rig.ts";
import { unifiedMount } from "../sandbox/runc.ts";
import { HOST, RESOLVER, startLoaded } from "./load.ts";
import { percentile, printTable } from "./statistics.ts";

const SAMPLES = 7;

/** What an act takes that goes through, and one that is refused, for who acts. */
const REFUSED: readonly (readonly [string, object, readonly string[]])[] = [
  [
    "exec, refused by its path",
    { process: { effect: Effect.PREVENT, denied: [{ process: "/opt/denied" }] } },
    ["exec", HOST, "1"],
  ],
  [
    "exec, killed by its name",
    { process: { effect: Effect.PREVENT, denied: [{ process: "denied" }] } },
    ["exec", HOST, "1"],
  ],
  [
    "connect",
    { network: { effect: Effect.PREVENT, denied: { outboundPorts: [{ first: 4444, last: 4444 }] } } },
    ["connect", HOST, "4444"],
  ],
  [
    "bind",
    { network: { effect: Effect.PREVENT, denied: { listeningPorts: [{ first: 4444, last: 4444 }] } } },
    ["bind", HOST, "4444"],
  ],
  ["raw socket", { network: { effect: Effect.PREVENT, detectors: { raw_socket: {} } } }, ["raw", HOST, "1"]],
  ["look-up", { dns: { effect: Effect.PREVENT, denied: ["bad.test"] } }, ["send", RESOLVER, "53"]],
  ["open for writing", { filesystem: { effect: Effect.PREVENT, denied: ["/etc/denied"] } }, ["open", HOST, "1"]],
];

async function refusals(): Promise<void> {
  await using rig = await AgentRig.open(`refuse-${process.pid}`, LearningState.ACTIVE);
  await rig.rules({ scope: { containers: ["none"] } });
  const web = await startLoaded(rig.sandbox, "web");
  await rig.watched("web");
  // A detector acts only once the model is active; what this container needs is what it is allowed here.
  await rig.activate(LearningState.ACTIVE, []);
  const count = 1_000;
  const rows: string[][] = [["act", "through p50", "p99", "refused p50", "p99", "refused"]];
  for (const [name, rules, args] of REFUSED) {
    const time = async () => {
      const { output } = await web.exec("/opt/callprobe", "timed", ...args, String(count));
      return JSON.parse(output) as { p50: number; p99: number; refused: number };
    };
    const allowed = { process: { effect: Effect.DISABLE } };
    await rig.rules({ scope: { containers: ["none"] } });
    const through = await time();
    await rig.activate(name === "raw socket" ? LearningState.ACTIVE : LearningState.LEARNING, []);
    await rig.rules({ ...allowed, ...rules });
    const refused = await time();
    const us = (ns: number) => (ns / 1_000).toFixed(1);
    rows.push([
      name,
      us(through.p50),
      us(through.p99),
      us(refused.p50),
      us(refused.p99),
      `${refused.refused} of ${count}`,
    ]);
  }
  printTable(`prevent: how long the act takes for who acts, µs (${count} each)`, rows);
}

const PROBE = "/opt/netprobe";
const RAW = { network: { effect: Effect.BLOCK, detectors: { raw_socket: {} } } };

const ACTS: readonly (readonly [string, object, readonly string[]])[] = [
  [
    "exec of a denied program",
    { process: { effect: Effect.BLOCK, denied: [{ process: "netprobe" }], allowed: [{ process: "/x" }] } },
    [PROBE, "raw", "2", "1"],
  ],
  [
    "connect",
    { network: { effect: Effect.BLOCK, denied: { outboundPorts: [{ first: 4444, last: 4444 }] } } },
    [PROBE, "tcp", HOST, "4444"],
  ],
  [
    "bind",
    { network: { effect: Effect.BLOCK, denied: { listeningPorts: [{ first: 4444, last: 4444 }] } } },
    [PROBE, "listen", "0.0.0.0", "4444", "0"],
  ],
  ["listen without bind", { network: { effect: Effect.BLOCK } }, [PROBE, "listen-unbound", "0.0.0.0", "0", "0"]],
  ["raw socket", RAW, [PROBE, "raw", "2", "255"]],
  ["packet socket", RAW, [PROBE, "packet", "3"]],
  [
    "look-up",
    { dns: { effect: Effect.BLOCK, denied: ["*.evil.example"] } },
    [PROBE, "dns", "udp", "10.0.0.53", "a.evil.example", "1"],
  ],
  [
    "open for writing",
    { filesystem: { effect: Effect.BLOCK, denied: ["/tmp/secret"] } },
    [PROBE, "open", "/tmp/secret"],
  ],
  ["system call", { syscall: { effect: Effect.BLOCK, denied: ["ptrace"] } }, [PROBE, "syscall", "101"]],
];

/** From the kernel's timestamp of the act until the container's control group is empty. */
async function actToEnd(name: string, rules: object, args: readonly string[]): Promise<number[]> {
  const times: number[] = [];
  await using rig = await AgentRig.open(`bench-${process.pid}`, LearningState.ACTIVE);
  for (let i = 0; i < SAMPLES; i += 1) {
    await rig.rules({ scope: { containers: ["none"] } });
    const web = await startLoaded(rig.sandbox, `web${i}`);
    const watched = await rig.watched(`web${i}`);
    await rig.rules(rules);
    const from = rig.audits.length;
    const populated = () => {
      try {
        return readFileSync(join(unifiedMount(), watched.cgroup.path, "cgroup.events"), "utf8").includes("populated 1");
      } catch {
        return false;
      }
    };
    void web.exec(...args);
    // Polled without a pause: what is measured is shorter than one.
    const deadline = performance.now() + 10_000;
    while (populated() && performance.now() < deadline) await new Promise((resolve) => setImmediate(resolve));
    if (populated()) throw new Error(`${name} did not end the container`);
    const end = process.hrtime.bigint();
    // The audit says what came of the stop, for which the runtime has ten seconds.
    const audit = await until("its audit", 20_000, () => rig.audits.slice(from).find((a) => a.event && a.container));
    times.push(Number(end - (audit.event?.ktimeNs ?? end)) / 1e6);
  }
  return times;
}

await refusals();
const rows: string[][] = [["act", "p50", "max"]];
for (const [name, rules, args] of ACTS) {
  const times = await actToEnd(name, rules, args);
  rows.push([name, percentile(times, 0.5).toFixed(1), Math.max(...times).toFixed(1)]);
}
printTable(
  `block: from the act, which has failed or is over, to the last process of the container, ms (${SAMPLES} each)`,
  rows,
);
