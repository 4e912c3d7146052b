/**
 * How many events a second are seen before the first is lost, for each sensor, with counts that add up to the event; what
 * agent and sensor take of a core meanwhile.
 */
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { until } from "../demo/until.ts";
import { AgentRig } from "../sandbox/agent-rig.ts";
import { Sandbox, type SandboxContainer } from "../sandbox/runc.ts";
import { HOST, RESOLVER, startLoaded } from "./load.ts";
import { printTable } from "./statistics.ts";

const RATES = [1_000, 5_000, 10_000, 20_000, 40_000, 80_000];
const EXEC_RATES = [500, 1_000, 2_000, 4_000, 0];
const SECONDS = 3;
const TICKS_PER_SECOND = 100;
const FOLDERS = 1_000;
/** Calls of the table that are tried, and how many of them come back at least. */
const CALLS = 334;
const FIRST_USES = 250;
const RULES = {
  process: { effect: Effect.ALERT },
  network: { effect: Effect.ALERT },
  dns: { effect: Effect.ALERT },
  filesystem: { effect: Effect.ALERT },
  syscall: { effect: Effect.ALERT },
};

/** A program that makes so many events of a section. */
interface Source {
  readonly section: Section;
  readonly events: number;
  readonly command: readonly string[];
}

/** What happens at once in one row of the table. */
interface Flood {
  readonly name: string;
  readonly sources: readonly Source[];
}

const probe = (section: Section, events: number, ...args: readonly (string | number)[]): Source => ({
  section,
  events,
  command: ["/opt/netprobe", ...args.map(String)],
});
const connections = (rate: number, isDistinct = 0) =>
  probe(Section.NETWORK, rate * SECONDS, "flood", "udp", HOST, 4000, rate * SECONDS, rate, isDistinct);
const lookUps = (rate: number, isDistinct = 0) =>
  probe(Section.DNS, rate * SECONDS, "flood", "dns", RESOLVER, 53, rate * SECONDS, rate, isDistinct);
const files = (rate: number, folders = 0) =>
  probe(
    Section.FILESYSTEM,
    rate * SECONDS,
    "opens",
    folders === 0 ? "/tmp/flood" : "/tmp/many",
    rate * SECONDS,
    rate,
    folders,
  );
/** Rate 0: as many as the machine can start. */
const execs = (rate: number): Source => {
  const events = (rate === 0 ? 5_000 : rate) * SECONDS;
  return {
    section: Section.PROCESS,
    events,
    command: ["/opt/spawn", String(events), String(rate), "/opt/nothing"],
  };
};

/** A quarter of each, every connection, name and folder another one than the one before. */
const mixed = (rate: number): Flood => ({
  name: "mixed, distinct",
  sources: [
    execs(Math.min(1_000, rate / 4)),
    connections((rate - Math.min(1_000, rate / 4)) / 3, 1),
    lookUps((rate - Math.min(1_000, rate / 4)) / 3, 1),
    files((rate - Math.min(1_000, rate / 4)) / 3, FOLDERS),
  ],
});

const FLOODS: readonly Flood[] = [
  { name: "nothing", sources: [] },
  ...EXEC_RATES.map((rate) => ({ name: "execs", sources: [execs(rate)] })),
  ...RATES.map((rate) => ({ name: "connections", sources: [connections(rate)] })),
  ...RATES.map((rate) => ({ name: "look-ups", sources: [lookUps(rate)] })),
  ...RATES.map((rate) => ({ name: "files", sources: [files(rate)] })),
  // Each call is told once: all that there are, one after another without a pause, is the most that there can be.
  {
    name: "first uses of calls",
    sources: [probe(Section.SYSCALL, FIRST_USES, "calls", CALLS)],
  },
  ...[1_000, 4_000, 20_000].map(mixed),
];

function ticksOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]?.split(" ") ?? [];
  return Number(fields[11]) + Number(fields[12]);
}

function rssMiB(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "0") / 1024;
}

interface Row {
  readonly seen: bigint;
  readonly lost: bigint;
  readonly emitted: bigint;
  readonly allowed: bigint;
}
const NO_ROW: Row = { seen: 0n, lost: 0n, emitted: 0n, allowed: 0n };

async function ladder(rig: AgentRig, web: SandboxContainer): Promise<void> {
  const watched = await rig.watched("web");
  const rowOf = (section: Section): Row =>
    rig.agent.stats?.rows.find((r) => r.cgroupId === watched.cgroup.id && r.section === section) ?? NO_ROW;
  const sensor = rig.agent.sensorPid ?? 0;
  const rows: string[][] = [["", "events/s", "sent", "seen", "lost", "agent % of a core", "sensor %", "RSS MiB"]];
  await web.exec("/bin/sh", "-c", `i=0; while [ $i -lt ${FOLDERS} ]; do /bin/mkdir -p /tmp/many/d$i; i=$((i+1)); done`);
  await watched.events.idle();
  for (const { name, sources } of FLOODS) {
    const sections = [...new Set(sources.map(({ section }) => section))];
    const before = new Map(sections.map((section) => [section, rowOf(section)]));
    const cpu = process.cpuUsage();
    const ticks = ticksOf(sensor);
    const begin = performance.now();
    if (sources.length === 0) await new Promise((resolve) => setTimeout(resolve, SECONDS * 1_000));
    await Promise.all(sources.map(({ command }) => web.exec(...command)));
    const acting = (performance.now() - begin) / 1_000;
    await watched.events.idle();
    const seconds = (performance.now() - begin) / 1_000;
    const used = process.cpuUsage(cpu);
    let [total, seen, lost] = [0n, 0n, 0n];
    for (const { section, events } of sources) {
      const from = before.get(section) ?? NO_ROW;
      const after = await until("the counters", 10_000, () => {
        const row = rowOf(section);
        return row.seen >= from.seen + BigInt(events) ? row : undefined;
      });
      const ownSeen = after.emitted + after.allowed - from.emitted - from.allowed;
      const ownLost = after.lost - from.lost;
      if (ownSeen + ownLost !== after.seen - from.seen)
        throw new Error(`${name}: ${ownSeen} seen and ${ownLost} lost are not ${after.seen - from.seen}`);
      total += after.seen - from.seen;
      seen += ownSeen;
      lost += ownLost;
    }
    const agentShare = ((used.user + used.system) / 1e6 / seconds) * 100;
    const sensorShare = ((ticksOf(sensor) - ticks) / TICKS_PER_SECOND / seconds) * 100;
    rows.push([
      name,
      (Number(total) / acting).toFixed(0),
      String(total),
      String(seen),
      String(lost),
      agentShare.toFixed(0),
      sensorShare.toFixed(0),
      `${rssMiB(process.pid).toFixed(0)} + ${rssMiB(sensor).toFixed(0)}`,
    ]);
  }
  printTable(`a ladder of rates, learning, ${SECONDS} s each (the agent here runs in the measuring process)`, rows);
}

await using sandbox = await Sandbox.open(
  `gabion-bench-${process.pid}`,
  join(mkdtempSync(join(tmpdir(), "gabion-bench-")), "sandbox"),
);
const web = await startLoaded(sandbox, "web");
{
  await using rig = await AgentRig.over(sandbox, LearningState.LEARNING, RULES);
  await ladder(rig, web);
}
