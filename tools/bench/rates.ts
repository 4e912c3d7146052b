/**
 * How many events a second are seen before the first is lost, for each sensor, with counts that add up to the event; what
 * agent and sensor take of a core meanwhile; and the time from an act to the end of its container under block.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { until } from "../demo/until.ts";
import { AgentRig } from "../sandbox/agent-rig.ts";
import { testProgram } from "../sandbox/programs.ts";
import { Sandbox, type SandboxContainer, unifiedMount } from "../sandbox/runc.ts";
import { percentile, printTable } from "./statistics.ts";

const RATES = [1_000, 5_000, 10_000, 20_000, 40_000, 80_000];
const SECONDS = 3;
const TICKS_PER_SECOND = 100;
const SAMPLES = 7;
const HOST = "203.0.113.5";
const RULES = {
  network: { effect: Effect.ALERT },
  dns: { effect: Effect.ALERT },
  filesystem: { effect: Effect.ALERT },
};

/** What makes so many events a second, and the section whose counters they move. */
const FLOODS: readonly (readonly [string, Section, (rate: number) => string[]])[] = [
  ["connections", Section.NETWORK, (rate) => ["flood", "udp", HOST, "4000", String(rate * SECONDS), String(rate)]],
  ["look-ups", Section.DNS, (rate) => ["flood", "dns", "10.0.0.53", "53", String(rate * SECONDS), String(rate)]],
  ["files", Section.FILESYSTEM, (rate) => ["opens", "/tmp/flood", String(rate * SECONDS), String(rate)]],
];

function ticksOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]?.split(" ") ?? [];
  return Number(fields[11]) + Number(fields[12]);
}

function rssMiB(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "0") / 1024;
}

const files = { "/opt/netprobe": { content: testProgram("netprobe"), mode: 0o755 } };

async function start(sandbox: Sandbox, id: string): Promise<SandboxContainer> {
  const container = sandbox.start(id, { args: ["/bin/sleep", "3600"], programs: ["/bin/sleep"], files });
  await container.addAddresses(HOST, "10.0.0.53");
  return container;
}

async function ladder(rig: AgentRig, web: SandboxContainer): Promise<void> {
  const watched = await rig.watched("web");
  const rowOf = (section: Section) =>
    rig.agent.stats?.rows.find((r) => r.cgroupId === watched.cgroup.id && r.section === section);
  const sensor = rig.agent.sensorPid ?? 0;
  const rows: string[][] = [["", "events/s", "sent", "seen", "lost", "agent % of a core", "sensor %", "RSS MiB"]];
  for (const [name, section, args] of FLOODS) {
    for (const rate of RATES) {
      const sent = BigInt(rate * SECONDS);
      const before = rowOf(section) ?? { seen: 0n, lost: 0n, emitted: 0n, allowed: 0n };
      const cpu = process.cpuUsage();
      const ticks = ticksOf(sensor);
      const begin = performance.now();
      await web.exec("/opt/netprobe", ...args(rate));
      await watched.events.idle();
      const seconds = (performance.now() - begin) / 1_000;
      const used = process.cpuUsage(cpu);
      const after = await until("the counters", 10_000, () => {
        const row = rowOf(section);
        return row && row.seen >= before.seen + sent ? row : undefined;
      });
      const seen = after.emitted + after.allowed - before.emitted - before.allowed;
      const agentShare = ((used.user + used.system) / 1e6 / seconds) * 100;
      const sensorShare = ((ticksOf(sensor) - ticks) / TICKS_PER_SECOND / seconds) * 100;
      const total = after.seen - before.seen;
      const lost = after.lost - before.lost;
      if (seen + lost !== total) throw new Error(`${name}: ${seen} seen and ${lost} lost are not ${total}`);
      rows.push([
        name,
        (Number(sent) / seconds).toFixed(0),
        String(total),
        String(seen),
        String(lost),
        agentShare.toFixed(0),
        sensorShare.toFixed(0),
        `${rssMiB(process.pid).toFixed(0)} + ${rssMiB(sensor).toFixed(0)}`,
      ]);
    }
  }
  printTable(`a ladder of rates, learning, ${SECONDS} s each (the agent here runs in the measuring process)`, rows);
}

const ACTS: readonly (readonly [string, object, readonly string[]])[] = [
  [
    "exec of a denied program",
    { process: { effect: Effect.BLOCK, denied: [{ process: "netprobe" }], allowed: [{ process: "/x" }] } },
    ["raw", "2", "1"],
  ],
  [
    "connect",
    { network: { effect: Effect.BLOCK, denied: { outboundPorts: [{ first: 4444, last: 4444 }] } } },
    ["tcp", HOST, "4444"],
  ],
  [
    "look-up",
    { dns: { effect: Effect.BLOCK, denied: ["*.evil.example"] } },
    ["dns", "udp", "10.0.0.53", "a.evil.example", "1"],
  ],
  ["open for writing", { filesystem: { effect: Effect.BLOCK, denied: ["/tmp/secret"] } }, ["open", "/tmp/secret"]],
  ["system call", { syscall: { effect: Effect.BLOCK, denied: ["ptrace"] } }, ["syscall", "101"]],
];

/** From the kernel's timestamp of the act until the container's control group is empty. */
async function actToEnd(name: string, rules: object, args: readonly string[]): Promise<number[]> {
  const times: number[] = [];
  await using rig = await AgentRig.open(`bench-${process.pid}`, LearningState.ACTIVE);
  for (let i = 0; i < SAMPLES; i += 1) {
    await rig.rules({ scope: { containers: ["none"] } });
    const web = await start(rig.sandbox, `web${i}`);
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
    void web.exec("/opt/netprobe", ...args);
    // Polled without a pause: what is measured is shorter than one.
    const deadline = performance.now() + 10_000;
    while (populated() && performance.now() < deadline) await new Promise((resolve) => setImmediate(resolve));
    if (populated()) throw new Error(`${name} did not end the container`);
    const end = process.hrtime.bigint();
    const audit = await until("its audit", 10_000, () => rig.audits.slice(from).find((a) => a.event && a.container));
    times.push(Number(end - (audit.event?.ktimeNs ?? end)) / 1e6);
  }
  return times;
}

const directory = mkdtempSync(join(tmpdir(), "gabion-bench-"));
await using stack = new AsyncDisposableStack();
stack.defer(() => rmSync(directory, { recursive: true, force: true }));
const sandbox = stack.use(await Sandbox.open(`gabion-bench-${process.pid}`, join(directory, "sandbox")));
const web = await start(sandbox, "web");
{
  await using rig = await AgentRig.over(sandbox, LearningState.LEARNING, RULES);
  await ladder(rig, web);
}
const rows: string[][] = [["act", "p50", "max"]];
for (const [name, rules, args] of ACTS) {
  const times = await actToEnd(name, rules, args);
  rows.push([name, percentile(times, 0.5).toFixed(1), Math.max(...times).toFixed(1)]);
}
printTable(
  `block: from the act, which has failed or is over, to the last process of the container, ms (${SAMPLES} each)`,
  rows,
);
