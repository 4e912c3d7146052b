import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { until } from "../tools/demo/until.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";
import { unifiedMount } from "../tools/sandbox/runc.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const PROBE = "/opt/netprobe";
const IDLE = ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"];
const FILES = {
  [PROBE]: { content: testProgram("netprobe"), mode: 0o755 },
  "/opt/bad": { content: testProgram("nothing"), mode: 0o755 },
  "/etc/passwd": { content: "root:x:0:0::/:/bin/sh\n", mode: 0o644 },
};

/** Keeps this process, which is the agent's too, from doing anything else; polls in between. */
function busyUntil(deadlineMs: number, done: () => boolean): number {
  const begin = performance.now();
  const cell = new Int32Array(new SharedArrayBuffer(4));
  while (!done() && performance.now() - begin < deadlineMs) Atomics.wait(cell, 0, 0, 20);
  return performance.now() - begin;
}

async function protectedContainer(rig: AgentRig) {
  await rig.rules({ filesystem: { effect: Effect.PREVENT, denied: ["/etc/passwd"] } });
  const web = rig.sandbox.start("web", { args: IDLE, programs: ["/bin/sh", "/bin/sleep"], files: FILES });
  await rig.watched("web");
  expect((await web.exec(PROBE, "open", "/etc/passwd")).output.trim()).toBe("EPERM");
  const runc = ["--root", rig.sandbox.runcRoot, "exec", "web", PROBE];
  /** In a process of its own, while the agent does nothing. */
  const read = () => {
    const begin = performance.now();
    const output = execFileSync("runc", [...runc, "opens", "/etc/passwd", "2000"], { encoding: "utf8" });
    return { output: output.trim(), ms: performance.now() - begin };
  };
  return { web, read };
}

onKernel(
  "opens that wait for a sensor which stands still go on within three seconds, whatever the agent does",
  async () => {
    await using rig = await AgentRig.open("still", LearningState.LEARNING);
    const { web, read } = await protectedContainer(rig);
    process.kill(rig.agent.sensorPid ?? 0, "SIGSTOP");
    const { output, ms } = read();
    expect(output).toBe("0 of 2000 failed");
    expect(ms).toBeLessThan(3_000);
    // The agent has had no time to see it: it does now, and refuses again.
    await rig.audited("the lost sensor", (a) => a.system?.name === "sensor_lost");
    await rig.audited("the new sensor", (a) => a.system?.name === "sensor_restarted");
    expect((await web.exec(PROBE, "open", "/etc/passwd")).output.trim()).toBe("EPERM");
  },
);

onKernel("thousands of opens go on at once where the sensor is killed in the midst of them", async () => {
  await using rig = await AgentRig.open("killed", LearningState.LEARNING);
  const { web } = await protectedContainer(rig);
  const opens = web.exec(PROBE, "opens", "/etc/passwd", "30000");
  await until("some to be refused", 5_000, () =>
    rig.audits.some((a) => a.message.includes("passwd")) ? true : undefined,
  );
  process.kill(rig.agent.sensorPid ?? 0, "SIGKILL");
  const begin = performance.now();
  expect((await opens).output).toMatch(/^\d+ of 30000 failed/);
  expect(performance.now() - begin).toBeLessThan(3_000);
  await rig.audited("the new sensor", (a) => a.system?.name === "sensor_restarted");
});

for (const [signal, boundMs] of [
  ["SIGKILL", 1_000],
  ["SIGSTOP", 3_000],
] as const) {
  onKernel(`a container that a sensor held goes on after its ${signal}, whatever the agent does`, async () => {
    await using rig = await AgentRig.open("held", LearningState.LEARNING, { holdMs: 60_000 });
    await rig.rules({ process: { effect: Effect.ALERT } });
    const asked = Promise.withResolvers<void>();
    rig.beforeModel = () => {
      asked.resolve();
      return new Promise(() => {});
    };
    rig.sandbox.start("web", { args: IDLE, programs: ["/bin/sh", "/bin/sleep"], files: FILES });
    await asked.promise;
    const frozen = join(unifiedMount(), rig.sandbox.scope, "web/cgroup.freeze");
    const isHeld = () => readFileSync(frozen, "latin1").trim() === "1";
    expect(isHeld()).toBe(true);
    process.kill(rig.agent.sensorPid ?? 0, signal);
    expect(busyUntil(5_000, () => !isHeld())).toBeLessThan(boundMs);
  });
}

onKernel("programs that wait to be started, and many that open, wait for a sensor no longer", async () => {
  await using rig = await AgentRig.open("waiting", LearningState.LEARNING);
  const { web } = await protectedContainer(rig);
  await rig.rules({
    process: { effect: Effect.PREVENT, denied: [{ process: "/opt/bad" }] },
    filesystem: { effect: Effect.PREVENT, denied: ["/etc/passwd"] },
  });
  expect((await web.exec("/opt/bad")).output).toMatch(/not permitted/);
  process.kill(rig.agent.sensorPid ?? 0, "SIGSTOP");
  const begin = performance.now();
  const all = await Promise.all([
    ...Array.from({ length: 8 }, () => web.exec(PROBE, "opens", "/etc/passwd", "200")),
    web.exec("/bin/sh", "-c", "i=0; while [ $i -lt 50 ]; do /opt/bad; i=$((i+1)); done; echo done"),
  ]);
  // Three seconds, and what it takes to start all of them.
  expect(performance.now() - begin).toBeLessThan(5_000);
  for (const { output } of all) expect(output.trim()).toMatch(/^\d+ of 200 failed$|done$/);
  await rig.audited("the new sensor", (a) => a.system?.name === "sensor_restarted");
  expect((await web.exec("/opt/bad")).output).toMatch(/not permitted/);
});

/** The process that ends a sensor which stands still: its only child. */
function watchdogOf(sensor: number): number {
  return Number(readFileSync(`/proc/${sensor}/task/${sensor}/children`, "latin1").trim());
}

onKernel("who may end the sensor and its watchdog hides nothing by it, and holds up nobody", async () => {
  await using rig = await AgentRig.open("attacked", LearningState.LEARNING);
  await rig.rules({ filesystem: { effect: Effect.PREVENT, denied: ["/etc/passwd"] } });
  // With the machine's processes in sight: nothing keeps such a container from it.
  const web = rig.sandbox.start("web", {
    args: IDLE,
    programs: ["/bin/sh", "/bin/sleep"],
    files: FILES,
    ownsPidNamespace: false,
  });
  await rig.watched("web");
  const system = (name: string) => rig.audits.filter((a) => a.system?.name === name).length;
  const attack = async (signal: string, pids: readonly number[], from: number) => {
    const before = system("sensor_restarted");
    const begin = performance.now();
    const command = `kill -${signal} ${pids.join(" ")}; ${PROBE} read /etc/passwd`;
    expect((await web.exec("/bin/sh", "-c", command)).output.trim()).toBe("ok");
    expect(performance.now() - begin).toBeLessThan(3_000);
    await until("the new sensor", 15_000, () => system("sensor_restarted") > before || undefined);
    expect(system("sensor_lost")).toBe(from + 1);
    expect((await web.exec(PROBE, "open", "/etc/passwd")).output.trim()).toBe("EPERM");
  };
  const first = rig.agent.sensorPid ?? 0;
  await attack("9", [watchdogOf(first), first], 0);
  const second = rig.agent.sensorPid ?? 0;
  const watchdog = watchdogOf(second);
  await attack("STOP", [watchdog, second], 1);
  process.kill(watchdog, "SIGKILL");
});
