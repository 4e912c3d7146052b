/** What else a user could run here for the same events: one bpftrace script of tracepoints, and auditd with rules. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { until } from "../demo/until.ts";
import { unifiedMount } from "../sandbox/runc.ts";

function bpftraceScript(group: string): string {
  const filter = `/cgroup == cgroupid("${join(unifiedMount(), group)}")/`;
  return `
tracepoint:syscalls:sys_enter_execve ${filter} { printf("exec %d %s\\n", pid, str(args->filename)); }
tracepoint:syscalls:sys_enter_openat ${filter} { printf("open %d %s\\n", pid, str(args->filename)); }
tracepoint:syscalls:sys_enter_connect ${filter} { printf("connect %d\\n", pid); }
tracepoint:syscalls:sys_enter_sendto ${filter} { printf("send %d %d\\n", pid, args->len); }
`;
}

/** Runs something while one bpftrace script records a control group; false where bpftrace is not here. */
export async function withBpftrace(group: string, directory: string, run: () => Promise<void>): Promise<boolean> {
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

/**
 * Runs something while auditd records the whole machine; false where auditd is not here. It leaves something behind: until the
 * machine is started anew, or `auditctl -a never,task`, each process that is made takes a longer way through every system
 * call. So measure without it first.
 */
export async function withAuditd(directory: string, run: () => Promise<void>): Promise<boolean> {
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
