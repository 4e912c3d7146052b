/**
 * The product as a whole: from exec to audit in the live stream, cost of agent and sensor while nothing happens, and the
 * time from the command to protection.
 */

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Observer } from "../demo/observer.ts";
import { LocalStack } from "../demo/stack.ts";
import { until } from "../demo/until.ts";
import { testProgram } from "../sandbox/programs.ts";
import { Sandbox } from "../sandbox/runc.ts";
import { percentile, printTable } from "./statistics.ts";

const SAMPLES = 60;
const IDLE_MS = 20_000;
const TICKS_PER_SECOND = 100;

interface Usage {
  readonly ticks: number;
  readonly rssMiB: number;
}

function usage(pid: number): Usage {
  const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]?.split(" ") ?? [];
  const rss = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "0";
  return { ticks: Number(fields[11]) + Number(fields[12]), rssMiB: Number(rss) / 1024 };
}

function pidOf(text: string): number {
  const lines = execFileSync("ps", ["-eo", "pid=,args="]).toString().split("\n");
  return Number(
    lines
      .find((line) => line.includes(text) && !line.includes("all-in-one"))
      ?.trim()
      .split(" ")[0],
  );
}

const directory = mkdtempSync(join(tmpdir(), "gabion-bench-"));
await using stack = new AsyncDisposableStack();
stack.defer(() => rmSync(directory, { recursive: true, force: true }));
const sandbox = stack.use(await Sandbox.open(`gabion-bench-${process.pid}`, join(directory, "sandbox")));
const data = join(directory, "data");
const settings = ["model.learning=1s", "model.dryRun=1s", "agent.span=250ms"];
const open = () => LocalStack.start({ data, scope: sandbox.scope, runcRoot: sandbox.runcRoot, settings });

const starts: number[] = [];
for (let i = 0; i < 3; i += 1) {
  const begin = performance.now();
  const local = await open();
  starts.push((performance.now() - begin) / 1_000);
  await local[Symbol.asyncDispose]();
}
const local = stack.use(await open());
const observer = stack.use(await Observer.open(local.connection));
const web = sandbox.start("web", {
  args: ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"],
  programs: ["/bin/sh", "/bin/sleep"],
  files: Object.fromEntries(
    Array.from({ length: SAMPLES }, (_, i) => [`/opt/p${i}`, { content: testProgram("nothing"), mode: 0o755 }]),
  ),
});
const { modelKey } = await observer.modelOf("web");
await observer.modelInState(modelKey, LearningState.ACTIVE);

const latencies: number[] = [];
for (let i = 0; i < SAMPLES; i += 1) {
  const running = web.exec(`/opt/p${i}`);
  const audit = await until(`audit ${i}`, 10_000, () => {
    const found = observer.audits.find((a) => a.event?.actor?.path === `/opt/p${i}`);
    return found;
  });
  await running;
  const seen = observer.arrivals.get(audit.auditId) ?? Number.NaN;
  latencies.push(seen - (audit.event?.eventTime ? timestampMs(audit.event.eventTime) : Number.NaN));
}

const parts = { agent: pidOf("agent/main.ts"), sensor: pidOf("gabion-sensor --scope") };
const before = Object.values(parts).map(usage);
await new Promise((resolve) => setTimeout(resolve, IDLE_MS));
const after = Object.values(parts).map(usage);

printTable("from exec to audit in a watcher's hands, ms (kernel timestamp to arrival over the live stream)", [
  ["samples", "p50", "p99"],
  [String(SAMPLES), percentile(latencies, 0.5).toFixed(0), percentile(latencies, 0.99).toFixed(0)],
]);
printTable(`idle for ${IDLE_MS / 1_000} s with one container (limits: 2 % of a core and 150 MiB together)`, [
  ["", "% of a core", "RSS MiB"],
  ...Object.keys(parts).map((name, i) => [
    name,
    ((((after[i]?.ticks ?? 0) - (before[i]?.ticks ?? 0)) / TICKS_PER_SECOND / (IDLE_MS / 1_000)) * 100).toFixed(1),
    (after[i]?.rssMiB ?? 0).toFixed(0),
  ]),
]);
printTable("from command to protecting, s (bus, four services, agent, sensor; warm clone)", [
  ["first start", "later starts"],
  [
    (starts[0] ?? 0).toFixed(1),
    starts
      .slice(1)
      .map((s) => s.toFixed(1))
      .join(", "),
  ],
]);
