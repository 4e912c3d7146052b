/**
 * What watching costs a mixed load (programs started, HTTP, look-ups, files) in one container: without Gabion, learning,
 * active, and with what else could record the same events here: one bpftrace script, and auditd's rules in the kernel.
 * Interleaved; each figure is against the run without anything in the same round.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { defaultRule } from "#core/policy/default-rule.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { until } from "../demo/until.ts";
import { AgentRig } from "../sandbox/agent-rig.ts";
import { testProgram } from "../sandbox/programs.ts";
import { Sandbox, type SandboxContainer, unifiedMount } from "../sandbox/runc.ts";
import { halfInterval, mean, percentile, printTable } from "./statistics.ts";

const ROUNDS = Number(process.env["ROUNDS"] ?? 8);
/** False: without the others, which take most of the time. */
const WITH_OTHERS = process.env["OTHERS"] !== "0";
const ADDRESS = "10.0.0.53";
const LOAD = ["/opt/mix", ADDRESS, "1500", "3000", "6000", "6000"];
const RULES = {
  process: {
    effect: Effect.ALERT,
    detectors: { drift: {}, reverse_shell: {}, lateral_movement: {}, crypto_miner: {} },
  },
  network: { effect: Effect.ALERT, detectors: { port_scan: {}, raw_socket: {} } },
  dns: { effect: Effect.ALERT, detectors: { dns_tunnel: {}, dns_flood: {} } },
  filesystem: {
    effect: Effect.ALERT,
    detectors: { changed_binary: {}, account_files: {}, ssh_files: {}, loader_files: {} },
  },
  syscall: { effect: Effect.ALERT },
};
const STATS = "/proc/sys/kernel/bpf_stats_enabled";

type Part = "exec" | "http" | "dns" | "files" | "total";
type Times = Record<Part, number>;

async function runMix(container: SandboxContainer): Promise<Times> {
  const { output } = await container.exec(...LOAD);
  return JSON.parse(output) as Times;
}

/** Runs of the load of which the best counts, for each of its parts. */
const RUNS = 5;

/** What else the machine does only ever adds: the least of several runs is what the load itself takes. */
async function measure(container: SandboxContainer): Promise<Times> {
  const runs: Times[] = [];
  for (let i = 0; i < RUNS; i += 1) runs.push(await runMix(container));
  const least = (part: Part) => Math.min(...runs.map((times) => times[part]));
  const parts = { exec: least("exec"), http: least("http"), dns: least("dns"), files: least("files") };
  return { ...parts, total: parts.exec + parts.http + parts.dns + parts.files };
}

/** ns of each system call of `dd bs=1`, which does little else. */
async function perCall(container: SandboxContainer): Promise<number> {
  const count = 1_000_000;
  const begin = performance.now();
  await container.exec("/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=1", `count=${count}`);
  return ((performance.now() - begin) * 1e6) / (2 * count);
}

function bpftraceScript(group: string): string {
  const filter = `/cgroup == cgroupid("${join(unifiedMount(), group)}")/`;
  return `
tracepoint:syscalls:sys_enter_execve ${filter} { printf("exec %d %s\\n", pid, str(args->filename)); }
tracepoint:syscalls:sys_enter_openat ${filter} { printf("open %d %s\\n", pid, str(args->filename)); }
tracepoint:syscalls:sys_enter_connect ${filter} { printf("connect %d\\n", pid); }
tracepoint:syscalls:sys_enter_sendto ${filter} { printf("send %d %d\\n", pid, args->len); }
`;
}

async function withBpftrace(group: string, directory: string, run: () => Promise<void>): Promise<boolean> {
  if (spawnSync("bpftrace", ["--version"]).status !== 0 || !existsSync("/sys/kernel/debug/tracing/events"))
    return false;
  const script = join(directory, "trace.bt");
  writeFileSync(script, bpftraceScript(group));
  const output = join(directory, "trace.out");
  const child: ChildProcess = spawn("bpftrace", ["-o", output, script], { stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  child.stderr?.on("data", (chunk: Buffer) => (log += chunk.toString()));
  await until("bpftrace to attach", 30_000, () =>
    existsSync(output) && /Attaching|Attached/.test(readFileSync(output, "utf8")) ? true : undefined,
  ).catch(() => {
    throw new Error(`bpftrace: ${log}`);
  });
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  await run();
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGINT");
  await ended;
  return true;
}

const AUDIT_RULE = [
  "always,exit",
  "-F",
  "arch=b64",
  "-S",
  "execve",
  "-S",
  "openat",
  "-S",
  "connect",
  "-S",
  "sendto",
  "-k",
  "gabion-bench",
];

async function withAuditd(directory: string, run: () => Promise<void>): Promise<boolean> {
  if (spawnSync("auditctl", ["-s"]).status !== 0) return false;
  const configuration = join(directory, "audit");
  execFileSync("mkdir", ["-p", configuration]);
  writeFileSync(
    join(configuration, "auditd.conf"),
    `log_file = ${join(directory, "audit.log")}\nlog_group = root\npriority_boost = 4\nflush = INCREMENTAL_ASYNC\nfreq = 50\nmax_log_file = 64\nnum_logs = 2\nmax_log_file_action = ROTATE\nspace_left = 75\nspace_left_action = IGNORE\nadmin_space_left = 50\nadmin_space_left_action = IGNORE\ndisk_full_action = IGNORE\ndisk_error_action = IGNORE\n`,
  );
  const child = spawn("auditd", ["-n", "-c", configuration], { stdio: "ignore" });
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  if (child.exitCode !== null) return false;
  execFileSync("auditctl", ["-b", "8192"], { stdio: "ignore" });
  execFileSync("auditctl", ["-a", ...AUDIT_RULE], { stdio: "ignore" });
  try {
    await run();
  } finally {
    spawnSync("auditctl", ["-d", ...AUDIT_RULE]);
    spawnSync("auditctl", ["-e", "0"]);
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGTERM");
    await ended;
  }
  return true;
}

interface ProgramStats {
  readonly name: string;
  readonly run_time_ns?: number;
  readonly run_cnt?: number;
}

/** What each program took, by the kernel's own statistics, which add some 45 ns to each run. */
function programCosts(): Map<string, { ns: number; count: number }> {
  const env = { ...process.env, PATH: `${process.env["PATH"]}:/usr/sbin` };
  const shown = JSON.parse(
    execFileSync("bpftool", ["-j", "prog", "show"], { env, maxBuffer: 1 << 26 }).toString(),
  ) as ProgramStats[];
  const costs = new Map<string, { ns: number; count: number }>();
  for (const { name, run_time_ns: ns = 0, run_cnt: count = 0 } of shown.filter((p) => p.name?.startsWith("handle_"))) {
    const before = costs.get(name) ?? { ns: 0, count: 0 };
    costs.set(name, { ns: before.ns + ns, count: before.count + count });
  }
  return costs;
}

await using stack = new AsyncDisposableStack();
const directory = mkdtempSync(join(tmpdir(), "gabion-bench-"));
const sandbox = stack.use(await Sandbox.open(`gabion-bench-${process.pid}`, join(directory, "sandbox")));
const file = (name: Parameters<typeof testProgram>[0]) => ({ content: testProgram(name), mode: 0o755 });
const container = sandbox.start("bench", {
  args: ["/bin/sleep", "3600"],
  programs: ["/bin/sleep", "/bin/dd"],
  files: { "/opt/mix": file("mix"), "/opt/nothing": file("nothing") },
});
await container.addAddresses(ADDRESS);
await runMix(container);

/** As a new installation has it: look-ups are left alone. */
const OWN = defaultRule();
const DEFAULT = Object.fromEntries(
  (["process", "network", "filesystem", "syscall"] as const).map((section) => [section, OWN[section]] as const),
);

const samples: Record<"off" | "learning" | "active" | "default" | "bpftrace" | "auditd", Times[]> = {
  off: [],
  learning: [],
  active: [],
  default: [],
  bpftrace: [],
  auditd: [],
};
const calls: Record<"off" | "active", number[]> = { off: [], active: [] };
let costs = new Map<string, { ns: number; count: number }>();
for (let round = 0; round < ROUNDS; round += 1) {
  samples.off.push(await measure(container));
  calls.off.push(await perCall(container));
  {
    await using rig = await AgentRig.over(sandbox, LearningState.LEARNING, RULES);
    await rig.watched("bench");
    await runMix(container);
    samples.learning.push(await measure(container));
    // What the bursts before have left to do must not push out what is to be learned.
    await (await rig.watched("bench")).events.idle();
    await rig.learned("/opt/nothing");
    await until("dd to be learned", 30_000, async () => {
      await container.exec("/bin/dd", "if=/dev/zero", "of=/dev/null", "count=1");
      await (await rig.watched("bench")).events.idle();
      return rig.process("/bin/dd");
    });
    await (await rig.watched("bench")).events.idle();
    await rig.activate(LearningState.ACTIVE);
    await runMix(container);
    samples.active.push(await measure(container));
    calls.active.push(await perCall(container));
    if (round === ROUNDS - 1) {
      writeFileSync(STATS, "1");
      await runMix(container);
      costs = programCosts();
      writeFileSync(STATS, "0");
    }
    await rig.rules(DEFAULT);
    await runMix(container);
    samples.default.push(await measure(container));
  }
  if (!WITH_OTHERS) continue;
  await withBpftrace(
    `${sandbox.scope}/bench`,
    directory,
    async () => void samples.bpftrace.push(await measure(container)),
  );
  await withAuditd(directory, async () => void samples.auditd.push(await measure(container)));
}

const NAMES: Readonly<Record<string, string>> = {
  learning: "Gabion learning, all sections",
  active: "Gabion active, all sections",
  default: "Gabion active, default rule",
};
const PARTS: readonly Part[] = ["exec", "http", "dns", "files", "total"];
function cell(name: keyof typeof samples, part: Part): string {
  const ratios = samples[name].map((times, i) => (times[part] / (samples.off[i]?.[part] ?? Number.NaN) - 1) * 100);
  if (ratios.length === 0) return "not here";
  const sign = mean(ratios) < 0 ? "" : "+";
  return `${sign}${mean(ratios).toFixed(1)} ± ${halfInterval(ratios).toFixed(1)}`;
}
const median = (part: Part) =>
  (
    percentile(
      samples.off.map((t) => t[part]),
      0.5,
    ) / 1e6
  ).toFixed(0);
printTable(`mixed load in a container, % more time than without anything (${ROUNDS} interleaved rounds, mean ± 95 %)`, [
  ["", "1,500 execs", "3,000 HTTP", "6,000 look-ups", "6,000 files", "all"],
  ["without anything, ms", ...PARTS.map(median)],
  ...(["learning", "active", "default", "bpftrace", "auditd"] as const).map((name) => [
    NAMES[name] ?? name,
    ...PARTS.map((part) => cell(name, part)),
  ]),
]);
const extra = calls.active.map((ns, i) => ns - (calls.off[i] ?? 0));
printTable("system calls of `dd bs=1`, ns each (start of the container's process included)", [
  ["without", "active", "more (95 %)"],
  [
    percentile(calls.off, 0.5).toFixed(0),
    percentile(calls.active, 0.5).toFixed(0),
    `${mean(extra).toFixed(0)} ± ${halfInterval(extra).toFixed(0)}`,
  ],
]);
printTable(
  "kernel programs in the mixed load, active: mean by the kernel's statistics (some 45 ns of each are theirs)",
  [
    ["program", "runs", "ns each"],
    ...[...costs]
      .filter(([, { count }]) => count > 0)
      .sort()
      .map(([name, { ns, count }]) => [name, String(count), (ns / count).toFixed(0)]),
  ],
);
