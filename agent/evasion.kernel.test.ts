import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { FactSchema, LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Delivery, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { until } from "../tools/demo/until.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const withDisks = test.skipIf(missing(...CONTAINERS, "disks") !== "");
const IDLE = ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"];
const PROBE = "/opt/netprobe";
const PROGRAMS = ["/bin/sh", "/bin/sleep", "/bin/mv", "/bin/cp", "/bin/mkdir", "/bin/mount", "/bin/unshare"];
const probeFile = { [PROBE]: { content: testProgram("netprobe"), mode: 0o755 } };

onKernel("a program that is renamed while it is started is no less denied", async () => {
  await using rig = await AgentRig.open("renamed", LearningState.LEARNING);
  await rig.rules({ process: { effect: Effect.PREVENT, denied: [{ process: "/var/bad/*" }] } });
  const web = rig.sandbox.start("web", {
    args: IDLE,
    programs: PROGRAMS,
    files: { "/var/bad/one": { content: testProgram("nothing"), mode: 0o755 } },
  });
  await rig.watched("web");
  const { output } = await web.exec(
    "/bin/sh",
    "-c",
    `(while true; do /bin/mv /var/bad/one /var/bad/two; /bin/mv /var/bad/two /var/bad/one; done) & other=$!
     ran=0; i=0
     while [ $i -lt 400 ]; do /var/bad/one 2>/dev/null && ran=$((ran+1)); /var/bad/two 2>/dev/null && ran=$((ran+1)); i=$((i+1)); done
     kill $other; echo ran $ran`,
  );
  expect(output).toContain("ran 0");
  await rig.audited("the program", (a) => a.message.includes("/var/bad/one") && a.delivery !== Delivery.AUDITED);
});

onKernel("a mount namespace of its own hides neither programs nor files from a rule", async () => {
  await using rig = await AgentRig.open("mounts", LearningState.LEARNING);
  await rig.rules({
    process: { effect: Effect.PREVENT, denied: [{ process: "/var/bad/*" }] },
    filesystem: { effect: Effect.ALERT, denied: ["/var/kept/*"] },
  });
  const web = rig.sandbox.start("web", { args: IDLE, programs: PROGRAMS, capabilities: ["CAP_SYS_ADMIN"] });
  await rig.watched("web");
  const { output } = await web.exec(
    "/bin/unshare",
    "-m",
    "/bin/sh",
    "-c",
    `/bin/mkdir -p /var/bad /var/kept; /bin/mount -t tmpfs none /var/bad; /bin/mount -t tmpfs none /var/kept
     /bin/cp /bin/sleep /var/bad/sleep; /var/bad/sleep 0; echo status $?; echo x > /var/kept/file; echo done`,
  );
  expect(output).toMatch(/status (126|137)/);
  expect(output).toContain("done");
  await rig.audited("the program", (a) => a.message.includes("/var/bad/sleep") && a.delivery === Delivery.KILLED);
  await rig.audited("the file", (a) => a.section === Section.FILESYSTEM && a.message.includes("/var/kept/file"));
});

onKernel(
  "a program from memory is no runtime's, whatever it is called, once it has been in the container",
  async () => {
    await using rig = await AgentRig.open("memory", LearningState.ACTIVE);
    await rig.rules({ process: { effect: Effect.ALERT, detectors: { drift: {} } } });
    const web = rig.sandbox.start("web", {
      args: IDLE,
      programs: PROGRAMS,
      ownsPidNamespace: false,
      capabilities: ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"],
      files: { ...probeFile, "/opt/memfd": { content: testProgram("memfd"), mode: 0o755 } },
    });
    await rig.watched("web");
    // As runc calls itself where it runs from memory, with the host's mounts as it has them.
    const { output, status } = await web.exec(
      ...["/opt/memfd", "as", "runc_cloned:/proc/self/exe", "in", `/proc/${process.pid}/ns/mnt`, PROBE],
      ...["open", "/dev/null"],
    );
    expect([output.trim(), status]).toEqual(["ok", 0]);
    const audit = await rig.audited("the program", (a) => a.message.includes("memfd:runc_cloned"));
    expect(audit.container?.containerId).toBe("web");
  },
);

withDisks("a disk that is opened for writing is told, and who does it dies where it is denied", async () => {
  await using rig = await AgentRig.open("disk", LearningState.LEARNING);
  const image = join(rig.sandbox.directory, "disk.img");
  writeFileSync(image, Buffer.alloc(1 << 20));
  const device = execFileSync("losetup", ["--find", "--show", image], { encoding: "utf8" }).trim();
  try {
    const number = readFileSync(`/sys/class/block/${basename(device)}/dev`, "utf8").trim();
    const web = rig.sandbox.start("web", {
      args: IDLE,
      programs: [...PROGRAMS, "/bin/mknod", "/bin/cat"],
      capabilities: ["CAP_MKNOD"],
      disks: { "/dev/disk": number },
      files: probeFile,
    });
    await rig.watched("web");
    await rig.rules({ filesystem: { effect: Effect.PREVENT, denied: ["/dev/disk", "/tmp/*"] } });
    // Reading is nobody's business, and a node of one's own is the disk all the same.
    expect((await web.exec(PROBE, "read", "/dev/disk")).output.trim()).toBe("ok");
    await web.exec("/bin/mknod", "/tmp/own", "b", ...number.split(":"));
    for (const path of ["/dev/disk", "/tmp/own"]) {
      const from = rig.audits.length;
      expect((await web.exec(PROBE, "open", path)).output.trim()).toBe("ok");
      const audit = await rig.audited(path, (a) => rig.audits.indexOf(a) >= from && a.message.includes(`\`${path}\``));
      expect(audit).toMatchObject({ delivery: Delivery.NOT_POSSIBLE, section: Section.FILESYSTEM });
      expect(audit.message).toContain("opened for writing");
    }
    await rig.rules({ filesystem: { effect: Effect.BLOCK, denied: ["/dev/disk"] } });
    const { output } = await web.exec("/bin/sh", "-c", "echo gone > /dev/disk; echo went on");
    expect(output).not.toContain("went on");
    expect((await web.ended).status).toBe(137);
    expect(readFileSync(image).every((byte) => byte === 0)).toBe(true);
  } finally {
    execFileSync("losetup", ["--detach", device]);
  }
});

onKernel("a link that leads elsewhere a moment later does not hide what was changed behind it", async () => {
  await using rig = await AgentRig.open("links", LearningState.ACTIVE);
  await rig.rules({ filesystem: { effect: Effect.ALERT, denied: ["/srv/kept/*"], detectors: { account_files: {} } } });
  const kept = Array.from(
    { length: 3_000 },
    (_, i) => [`/srv/kept/below/${i}`, { content: "x", mode: 0o644 }] as const,
  );
  const web = rig.sandbox.start("web", {
    args: IDLE,
    programs: [...PROGRAMS, "/bin/ln", "/bin/rm"],
    files: {
      "/etc/passwd": { content: "root:x:0:0::/:/bin/sh\n", mode: 0o644 },
      "/var/a/x": { content: "x", mode: 0o644 },
      ...Object.fromEntries(kept),
    },
  });
  await rig.watched("web");
  const swapped = (to: string, act: string) => `/bin/ln -sfn ${to} /var/l; ${act}; /bin/ln -sfn /var/a /var/l`;
  const about = (path: string) => rig.audits.filter((a) => a.message.includes(`\`${path}\``));
  let next = 0;
  const removed = async () => {
    next += 1;
    await web.exec("/bin/sh", "-c", swapped("/srv/kept/below", `/bin/rm /var/l/${next}`));
    return (
      rig.audits.some((a) => a.message.includes("`/srv/kept/below/") && a.message.includes("was not seen")) || undefined
    );
  };
  await until("names to be watched", 20_000, removed);
  // What is told by who did it is not told again.
  await web.exec("/bin/sh", "-c", "echo x > /var/new; /bin/mv /var/new /etc/passwd");
  await web.exec("/bin/sh", "-c", swapped("/etc", "echo x > /var/new; /bin/mv /var/new /var/l/shadow"));
  const shadow = await rig.audited("the file behind the link", (a) => a.message.includes("`/etc/shadow`"));
  expect(shadow.decision).toMatchObject({ detector: "account_files", effectApplied: Effect.ALERT });
  expect(about("/etc/passwd").map(({ message }) => message)).toEqual([
    expect.stringMatching(/^`\/var\/new` renamed to/),
  ]);
});

onKernel("a flood of look-ups of random names is counted exactly and told as what it is", async () => {
  await using rig = await AgentRig.open("names", LearningState.ACTIVE);
  await rig.rules({ dns: { effect: Effect.ALERT, detectors: { dns_tunnel: {} } } });
  const web = rig.sandbox.start("web", { args: IDLE, programs: PROGRAMS, files: probeFile });
  const container = await rig.watched("web");
  await web.addAddresses("10.0.0.53");
  await web.exec(PROBE, "flood", "dns", "10.0.0.53", "53", "20000", "0", "1");
  const row = await until("all to be counted", 10_000, () =>
    rig.agent.stats?.rows.find(
      (r) => r.cgroupId === container.cgroup.id && r.section === Section.DNS && r.seen >= 20_000n,
    ),
  );
  expect(row.seen).toBe(row.allowed + row.emitted + row.lost);
  const audit = await rig.audited("the tunnel", (a) => a.decision?.detector === "dns_tunnel");
  expect(audit.message).toContain("below `flood.example`");
});

onKernel("the very first act of a container is refused like every later one", async () => {
  await using rig = await AgentRig.open("first", LearningState.LEARNING);
  await rig.rules({
    process: { effect: Effect.PREVENT, denied: [{ process: "/var/bad/*" }] },
    network: {
      effect: Effect.PREVENT,
      denied: { outboundAddresses: ["127.0.0.7"], listeningPorts: [{ first: 4444, last: 4444 }] },
    },
    dns: { effect: Effect.PREVENT, denied: ["*.evil.example"] },
    filesystem: { effect: Effect.PREVENT, denied: ["/etc/passwd"] },
    syscall: { effect: Effect.BLOCK, denied: ["getcpu"] },
  });
  const files = {
    ...probeFile,
    "/var/bad/one": { content: testProgram("nothing"), mode: 0o755 },
    "/etc/passwd": { content: "root:x:0:0::/:/bin/sh\n", mode: 0o644 },
  };
  const first = async (id: string, ...args: string[]) =>
    await rig.sandbox.start(id, { args, programs: [], files, capabilities: ["CAP_NET_RAW"] }).ended;
  expect((await first("program", "/var/bad/one")).status).not.toBe(0);
  expect((await first("connection", PROBE, "tcp", "127.0.0.7", "9")).output.trim()).toBe("EPERM");
  expect((await first("file", PROBE, "open", "/etc/passwd")).output.trim()).toBe("EPERM");
  expect((await first("bind", PROBE, "listen", "0.0.0.0", "4444", "0")).output.trim()).toBe("EPERM");
  expect((await first("look-up", PROBE, "dns", "udp", "127.0.0.1", "a.evil.example", "1")).output.trim()).toBe("EPERM");
  const call = await first("call", PROBE, "syscall", "309");
  expect([call.output.trim(), call.status]).toEqual(["", 137]);
  await rig.rules({ network: { effect: Effect.PREVENT, detectors: { raw_socket: {} } } });
  rig.changeModel(LearningState.ACTIVE, []);
  expect((await first("raw", PROBE, "raw", "2", "255")).output.trim()).toBe("EPERM");
  expect((await first("unbound", PROBE, "listen-unbound", "0.0.0.0", "0", "0")).status).toBe(137);
  expect((await first("packets", PROBE, "packet", "3")).status).toBe(137);
  const packets = await rig.audited("the packet socket", (a) => a.container?.containerId === "packets");
  expect(packets.deliveryNote).toMatch(/killed before .*it was the container's first process, so the container ended/);
  for (const id of ["program", "connection", "file", "bind", "look-up", "call", "raw", "unbound"]) {
    const audit = await rig.audited(id, (a) => a.container?.containerId === id && a.section !== 0);
    const expected = id === "call" ? [Delivery.AFTER_THE_FACT] : [Delivery.DENIED, Delivery.KILLED];
    expect(expected, id).toContain(audit.delivery);
  }
  expect(rig.audits.some((a) => a.system?.name === "hold_expired")).toBe(false);
});

onKernel("`ping` has what the model knows it to need, and nobody else, nor more", async () => {
  await using rig = await AgentRig.open("ping", LearningState.LEARNING);
  const rule = {
    process: { effect: Effect.ALERT },
    network: { effect: Effect.PREVENT, detectors: { raw_socket: {} } },
  };
  await rig.rules(rule);
  const web = rig.sandbox.start("web", {
    args: IDLE,
    programs: PROGRAMS,
    capabilities: ["CAP_NET_RAW"],
    files: { ...probeFile, "/usr/bin/ping": { content: testProgram("netprobe"), mode: 0o755 } },
  });
  await rig.watched("web");
  const opens = async (program: string, protocol: number) =>
    (await web.exec(program, "raw", "2", String(protocol))).output.trim();
  const process = create(FactSchema, { kind: { case: "process", value: { path: "/usr/bin/ping", name: "ping" } } });
  await rig.activate(LearningState.ACTIVE, [process]);
  expect(await opens("ping", 1)).toBe("ok");
  expect(await opens("ping", 255)).toBe("EPERM");
  await rig.activate(LearningState.ACTIVE, []);
  expect(await opens("ping", 1)).toBe("EPERM");
});

/** What the sensor has attached, by the kernel's own account of its open links. */
function linksOf(pid: number): number {
  return readdirSync(`/proc/${pid}/fdinfo`).filter((file) => {
    try {
      return readFileSync(`/proc/${pid}/fdinfo/${file}`, "utf8").includes("link_type:");
    } catch {
      return false;
    }
  }).length;
}

onKernel("what costs the whole machine something is attached only while a rule needs it", async () => {
  await using rig = await AgentRig.open("attached", LearningState.LEARNING);
  await rig.rules({ process: { effect: Effect.ALERT } });
  const web = rig.sandbox.start("web", { args: IDLE, programs: PROGRAMS });
  await rig.watched("web");
  const links = () => linksOf(rig.agent.sensorPid ?? 0);
  const few = links();
  await rig.rules({ process: { effect: Effect.ALERT }, syscall: { effect: Effect.ALERT } });
  const some = links();
  expect(some).toBeGreaterThan(few);
  await rig.rules({
    process: { effect: Effect.ALERT },
    network: { effect: Effect.ALERT },
    dns: { effect: Effect.ALERT },
  });
  expect(links()).toBeGreaterThan(some);
  await rig.rules({ process: { effect: Effect.ALERT } });
  await until("all to be taken out", 5_000, () => links() === few || undefined);
  // With the last container that needs them they go too.
  await rig.rules({ process: { effect: Effect.ALERT }, syscall: { effect: Effect.ALERT } });
  expect(links()).toBeGreaterThan(few);
  await web[Symbol.asyncDispose]();
  await until("all to be taken out", 5_000, () => links() <= few || undefined);
});
