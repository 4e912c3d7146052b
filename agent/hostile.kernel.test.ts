import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect, Outcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { until } from "../tools/demo/until.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";
import { unifiedMount } from "../tools/sandbox/runc.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const IDLE = ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"];
const PROBE = "/opt/netprobe";
const PROGRAMS = ["/bin/sh", "/bin/sleep", "/bin/mv", "/bin/cp", "/bin/mount", "/bin/chroot", "/bin/mkdir"];

async function open(name: string, state: LearningState, capabilities: readonly string[] = []) {
  const rig = await AgentRig.open(name, state);
  const start = async () => {
    const web = rig.sandbox.start("web", {
      args: IDLE,
      programs: PROGRAMS,
      capabilities,
      files: {
        [PROBE]: { content: testProgram("netprobe"), mode: 0o755 },
        "/opt/callprobe": { content: testProgram("callprobe"), mode: 0o755 },
      },
    });
    const container = await rig.watched("web");
    await web.addAddresses("203.0.113.5", "10.0.0.53");
    return { web, container };
  };
  return { rig, start };
}

onKernel("floods of connections, look-ups and opens are seen or counted as lost, in each section exactly", async () => {
  const { rig, start } = await open("floods", LearningState.LEARNING);
  await using _ = rig;
  await rig.rules({
    network: { effect: Effect.ALERT },
    dns: { effect: Effect.ALERT },
    filesystem: { effect: Effect.ALERT },
  });
  const { web, container } = await start();
  const before = rig.observations.length;
  await Promise.all([
    web.exec(PROBE, "flood", "udp", "203.0.113.5", "4000", "20000"),
    web.exec(PROBE, "flood", "dns", "10.0.0.53", "53", "20000"),
    web.exec(PROBE, "opens", "/tmp/flood", "20000"),
  ]);
  const sent = 20_000n;
  for (const [name, section] of Object.entries({
    network: Section.NETWORK,
    dns: Section.DNS,
    files: Section.FILESYSTEM,
  })) {
    const row = await until(`${name} to be counted`, 10_000, () => {
      const found = rig.agent.stats?.rows.find((r) => r.cgroupId === container.cgroup.id && r.section === section);
      return found && found.seen >= sent ? found : undefined;
    });
    expect(row.seen, name).toBe(row.allowed + row.emitted + row.lost);
    await container.events.idle();
    // What left the kernel was judged, and what did not is told with the time in which it was lost.
    const told = () =>
      rig.observations.slice(before).reduce((sum, o) => {
        if (o.kind === "span" && o.value.section === section) return sum + o.value.lostEventCount;
        if (o.kind !== "seen" || o.value.section !== section) return sum;
        return sum + BigInt(o.value.counts.reduce((a, b) => a + b, 0));
      }, 0n);
    await until(`${name} to add up`, 10_000, () => (told() >= sent ? true : undefined));
  }
});

onKernel("a container that does more than one may do is told as flooding, and others are still seen", async () => {
  const { rig, start } = await open("throttle", LearningState.LEARNING);
  await using _ = rig;
  await rig.rules({ process: { effect: Effect.ALERT }, network: { effect: Effect.ALERT } });
  const { web } = await start();
  const other = rig.sandbox.start("other", { args: IDLE, programs: PROGRAMS });
  await rig.watched("other");
  const flood = Promise.all([1, 2, 3].map(() => web.exec(PROBE, "flood", "udp", "203.0.113.5", "4000", "150000")));
  await other.exec("/bin/mkdir", "/seen");
  await rig.learned("/bin/mkdir");
  await flood;
  const audit = await rig.audited("the flood", (a) => a.system?.name === "flooding");
  expect(audit.container?.containerId).toBe("web");
});

onKernel("whoever renames, mounts or changes its root does not get a denied program past the path", async () => {
  const { rig, start } = await open("evade", LearningState.LEARNING, ["CAP_SYS_ADMIN"]);
  await using _ = rig;
  await rig.rules({
    process: { effect: Effect.PREVENT, denied: [{ process: "/bin/mkdir" }, { process: "/jail/bin/x" }] },
  });
  const { web } = await start();
  const sh = async (command: string) => (await web.exec("/bin/sh", "-c", `${command}; echo status $?`)).output;
  const refused = /Operation not permitted|Killed/;
  expect(await sh("/bin/mkdir /a")).toMatch(refused);
  expect(await sh("/proc/self/root/bin/mkdir /a")).toMatch(refused);
  expect(await sh("cd /bin; ./../bin/mkdir /a")).toMatch(refused);
  expect(await sh("exec 5</bin/mkdir; /proc/self/fd/5 /a")).toMatch(refused);
  expect(
    await sh(
      "cp /bin/true /true 2>/dev/null; mkdir -p /jail/bin; cp /bin/sleep /jail/bin/x; /bin/chroot /jail /bin/x 0",
    ),
  ).toMatch(refused);
  // A bind mount shows the same inode elsewhere: by its path it is another program, and it is told as such.
  await sh("mkdir -p /other; cp /bin/sleep /other/mkdir; mount --bind /bin/mkdir /other/mkdir && /other/mkdir /a");
  await rig.learned("/other/mkdir");
  expect(existsSync(join(web.rootfs, "a"))).toBe(true);
});

onKernel("a fork bomb within its limit costs no other container anything, and its loss is counted", async () => {
  const { rig, start } = await open("bomb", LearningState.LEARNING);
  await using _ = rig;
  await rig.rules({ process: { effect: Effect.ALERT }, syscall: { effect: Effect.ALERT } });
  const { web, container } = await start();
  const other = rig.sandbox.start("other", { args: IDLE, programs: PROGRAMS });
  await rig.watched("other");
  const bomb = web.exec("/bin/sh", "-c", "i=0; while [ $i -lt 1500 ]; do /bin/sleep 2 & i=$((i+1)); done; wait");
  await other.exec("/bin/mkdir", "/alive");
  await rig.learned("/bin/mkdir");
  await bomb;
  const row = await until("all to be counted", 10_000, () =>
    rig.agent.stats?.rows.find(
      (r) => r.cgroupId === container.cgroup.id && r.section === Section.PROCESS && r.seen >= 1_500n,
    ),
  );
  expect(row.seen).toBe(row.allowed + row.emitted + row.lost);
});

const PID_MAX = "/proc/sys/kernel/pid_max";

/** Has the kernel number so many processes, which it does by itself where it has more processors, until the test is over. */
function numberProcesses(count: number): void {
  const before = readFileSync(PID_MAX, "utf8");
  if (Number(before) >= count) return;
  writeFileSync(PID_MAX, String(count));
  // Also where the test runs out of time, which `using` would not see.
  onTestFinished(() => writeFileSync(PID_MAX, before));
}

onKernel(
  "a crowd of processes in one container keeps nobody else from being seen, and leaves nothing behind",
  async () => {
    const crowdSize = 65_000;
    numberProcesses(crowdSize + 35_000);
    const { rig, start } = await open("crowd", LearningState.LEARNING);
    await using _ = rig;
    await rig.rules({
      process: { effect: Effect.ALERT },
      filesystem: { effect: Effect.ALERT },
      syscall: { effect: Effect.ALERT },
    });
    const { web } = await start();
    const crowd = rig.sandbox.start("crowd", {
      args: ["/opt/callprobe", "crowd", String(crowdSize), "180"],
      programs: ["/bin/sh"],
      files: { "/opt/callprobe": { content: testProgram("callprobe"), mode: 0o755 } },
      resources: { pids: { limit: crowdSize + 100 }, memory: { limit: 12 * 1024 ** 3 } },
    });
    const { cgroup } = await rig.watched("crowd");
    const count = () => {
      const text = readFileSync(join(unifiedMount(), cgroup.path, "cgroup.procs"), "utf8");
      return text.split("\n").length - 1;
    };
    await until("the crowd", 120_000, () => count() >= crowdSize || undefined);
    await web.exec("/bin/sh", "-c", "/bin/mkdir /seen; echo x > /seen/file");
    await rig.learned("/bin/mkdir");
    await until("its file", 10_000, () =>
      rig.facts().find(({ kind }) => kind.case === "file" && kind.value.path === "/seen"),
    );
    const rows = await until("its counters", 10_000, () => {
      const own = rig.agent.stats?.rows.filter((row) => row.cgroupId === cgroup.id) ?? [];
      return own.some(({ section }) => section === Section.SYSCALL) ? own : undefined;
    });
    expect(rows.map(({ lost }) => lost)).toEqual(rows.map(() => 0n));
    const { isStopped } = await rig.agent.stop(await rig.watched("crowd"));
    expect(isStopped).toBe(true);
    await crowd.ended;
    // Whoever comes afterwards is held, watched and learned from as before.
    const after = rig.sandbox.start("after", { args: IDLE, programs: PROGRAMS });
    await rig.watched("after");
    await after.exec("/bin/cp", "/bin/sh", "/bin/copy");
    await rig.learned("/bin/cp");
  },
  // A slow machine takes a millisecond for each of them.
  240_000,
);

onKernel("who gets out of its control group is told, once, by whatever way it got there", async () => {
  const { rig, start } = await open("leave", LearningState.LEARNING, ["CAP_SYS_ADMIN"]);
  await using _ = rig;
  await rig.rules({ process: { effect: Effect.ALERT } });
  const { web } = await start();
  const left = () => rig.audits.filter((a) => a.system?.name === "left_control_group");
  const elsewhere = join(unifiedMount(), rig.sandbox.scope, "elsewhere");
  mkdirSync(elsewhere);
  // From inside, with the right to mount: all of the tree is there, because it has no control group namespace.
  const inside = `/tmp/tree${rig.sandbox.scope}/elsewhere/cgroup.procs`;
  const { output } = await web.exec(
    "/bin/sh",
    "-c",
    `/bin/mkdir /tmp/tree; /bin/mount -t cgroup2 none /tmp/tree; echo $$ > ${inside} && /bin/sleep 0 && echo out`,
  );
  expect(output.trim()).toBe("out");
  const audit = await rig.audited("who left", (a) => a.system?.name === "left_control_group");
  expect(audit.container?.containerId).toBe("web");
  expect(audit.message).toContain(`for \`${rig.sandbox.scope}/elsewhere\``);
  // A child that is born there has not moved.
  const born = await web.exec("/opt/callprobe", "born", `/tmp/tree${rig.sandbox.scope}/elsewhere`);
  expect(born.output.trim()).toBe("ok");
  // From outside, to a group below the container's, which is its own, and then to that one.
  const below = join(unifiedMount(), rig.sandbox.scope, "web/below");
  mkdirSync(below);
  const pid = String(await web.initPid());
  writeFileSync(join(below, "cgroup.procs"), pid);
  for (let i = 0; i < 3; i += 1) writeFileSync(join(elsewhere, "cgroup.procs"), pid);
  // Those that come within ten seconds of the first are told as one.
  const count = () => left().reduce((sum, a) => sum + a.count, 0n);
  await until("the others", 15_000, () => count() >= 3n || undefined);
  expect(count()).toBe(3n);
});

onKernel("answers made to break the parser harm nobody either", async () => {
  const { rig, start } = await open("answers", LearningState.LEARNING);
  await using _ = rig;
  await rig.rules({ dns: { effect: Effect.ALERT, denied: ["*.evil.example"] } });
  const { web, container } = await start();
  const { sensorPid } = rig.agent;
  void web.exec(PROBE, "dns-serve-nonsense", "10.0.0.53", "203.0.113.5");
  await until("the resolver", 5_000, async () => {
    const asked = await web.exec(PROBE, "dns", "udp", "10.0.0.53", "ready.example", "1");
    return asked.output.trim() === "ok" || undefined;
  });
  await web.exec(PROBE, "flood", "dns", "10.0.0.53", "53", "4000", "2000", "1");
  const row = await until("all to be counted", 10_000, () =>
    rig.agent.stats?.rows.find(
      (r) => r.cgroupId === container.cgroup.id && r.section === Section.DNS && r.seen >= 4_000n,
    ),
  );
  expect(row.seen).toBe(row.allowed + row.emitted + row.lost);
  await web.exec(PROBE, "dns", "udp", "10.0.0.53", "a.evil.example", "1");
  await rig.audited("the denied name", (a) => a.message.includes("a.evil.example"));
  expect(rig.agent.sensorPid).toBe(sensorPid);
});

onKernel("a fork bomb up to its limit leaves the others what they had", async () => {
  const { rig } = await open("limit", LearningState.LEARNING);
  await using _ = rig;
  await rig.rules({
    process: { effect: Effect.ALERT },
    filesystem: { effect: Effect.ALERT },
    syscall: { effect: Effect.ALERT },
  });
  const { sensorPid } = rig.agent;
  const other = rig.sandbox.start("other", { args: IDLE, programs: PROGRAMS });
  await rig.watched("other");
  const bomb = rig.sandbox.start("bomb", {
    args: ["/bin/sh", "-c", "bomb() { bomb | bomb & /bin/sleep 0; }; bomb; while true; do /bin/sleep 1; done"],
    programs: PROGRAMS,
    resources: { pids: { limit: 200 }, cpu: { shares: 64 } },
  });
  await until("the limit", 10_000, () => {
    const places = ["/sys/fs/cgroup/pids", unifiedMount()].map((top) =>
      join(top, rig.sandbox.scope, "bomb/pids.current"),
    );
    return places.some((place) => existsSync(place) && Number(readFileSync(place, "utf8")) >= 150) || undefined;
  });
  await other.exec("/bin/mkdir", "/alive");
  await rig.learned("/bin/mkdir");
  await bomb[Symbol.asyncDispose]();
  expect(rig.agent.sensorPid).toBe(sensorPid);
});

onKernel("packets made to break the parser are told as malformed and harm nobody", async () => {
  const { rig, start } = await open("packets", LearningState.LEARNING);
  await using _ = rig;
  await rig.rules({ dns: { effect: Effect.PREVENT, denied: ["*.evil.example"] } });
  const { web } = await start();
  // 4,000 messages of random length and content, and the same number of questions with random bytes changed.
  const { output } = await web.exec(PROBE, "fuzz", "10.0.0.53", "4000");
  expect(output.trim()).toBe("ok");
  expect((await web.exec(PROBE, "dns", "udp", "10.0.0.53", "a.evil.example", "1")).output.trim()).toBe("EPERM");
  const audit = await rig.audited("the denied name", (a) => a.message.includes("a.evil.example"));
  expect(audit.decision?.outcome).toBe(Outcome.DENIAL);
});
