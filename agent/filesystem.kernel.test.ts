import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { FileOperation, Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Delivery, Effect, Outcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { until } from "../tools/demo/until.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";
import type { SandboxContainer } from "../tools/sandbox/runc.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const IDLE = ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"];
const PROBE = "/opt/netprobe";
const CALLS = "/opt/callprobe";
const PROGRAMS = [
  "/bin/sh",
  "/bin/sleep",
  "/bin/mv",
  "/bin/rm",
  "/bin/ln",
  "/bin/chmod",
  "/bin/cp",
  "/bin/mkdir",
  "/bin/cat",
  "/bin/timeout",
  "/bin/mkfifo",
];

async function start(rig: AgentRig): Promise<SandboxContainer> {
  const container = rig.sandbox.start("web", {
    args: IDLE,
    programs: PROGRAMS,
    capabilities: ["CAP_DAC_READ_SEARCH", "CAP_SYS_CHROOT", "CAP_SETFCAP"],
    files: {
      [PROBE]: { content: testProgram("netprobe"), mode: 0o755 },
      [CALLS]: { content: testProgram("callprobe"), mode: 0o755 },
      "/etc/passwd": { content: "root:x:0:0::/:/bin/sh\n", mode: 0o644 },
      "/etc/shadow": { content: "root:*:1::::::\n", mode: 0o600 },
      "/root/.ssh/authorized_keys": { content: "", mode: 0o600 },
      "/var/data/a": { content: "a", mode: 0o644 },
      "/var/other/handled": { content: "h", mode: 0o644 },
      "/var/other/b": { content: "b", mode: 0o644 },
    },
  });
  await rig.watched("web");
  return container;
}

describe("what a container does to files", () => {
  let rig: AgentRig;
  let web: SandboxContainer;
  const sh = (command: string) => web.exec("/bin/sh", "-c", command);
  const files = () => rig.facts().flatMap(({ kind }) => (kind.case === "file" ? [kind.value] : []));
  const changes = () =>
    rig.audits.flatMap((a) => (a.event?.kind.case === "fileChange" ? [{ ...a, change: a.event.kind.value }] : []));
  const changed = (path: string, operation: FileOperation) =>
    until(`${path} changed`, 10_000, () =>
      changes().find(({ change: c }) => c.path === path && c.operation === operation),
    );

  beforeAll(async () => {
    if (missing(...CONTAINERS) !== "") return;
    rig = await AgentRig.open("files", LearningState.LEARNING);
    await rig.rules({
      process: { effect: Effect.ALERT },
      filesystem: {
        effect: Effect.ALERT,
        detectors: { changed_binary: {}, account_files: {}, ssh_files: {}, loader_files: {} },
      },
    });
    web = await start(rig);
  });
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  onKernel("folders are learned for each program, with the real path whatever way led there", async () => {
    await sh(
      "echo x > /var/data/a; cd /var; echo y > ./data/../data/b; ln -s /var/data /tmp/link; echo z > /tmp/link/c",
    );
    const found = await until("the folder", 5_000, () => files().find(({ path }) => path === "/var/data"));
    expect(found).toMatchObject({ processPath: "/bin/sh", isExecutable: false });
    expect(files().some(({ path }) => path.includes("link"))).toBe(false);
  });

  onKernel("what the runtime does on its way in is not the container's", async () => {
    await sh("true");
    expect(files().filter(({ path }) => path.startsWith("/proc"))).toEqual([]);
  });

  onKernel("known folders are only counted; others, renames, removals and links are told with real paths", async () => {
    await sh("rm /var/data/c; /bin/mv /var/data/b /var/data/b2; rm /tmp/link");
    await until("the folder of mv", 5_000, () => files().find(({ processPath }) => processPath === "/bin/mv"));
    await rig.activate(LearningState.ACTIVE);
    const container = await rig.watched("web");
    const row = () =>
      rig.agent.stats?.rows.find((r) => r.cgroupId === container.cgroup.id && r.section === Section.FILESYSTEM);
    const before = await until("counters", 5_000, row);
    await sh("for i in 1 2 3 4 5; do echo x > /var/data/a; done; rm /var/data/a");
    const after = await until("six more", 5_000, () => {
      const now = row();
      return now && now.seen >= before.seen + 6n ? now : undefined;
    });
    expect(after.emitted).toBe(before.emitted);
    expect(changes()).toEqual([]);
    await sh("cd /var/other; echo x > new; mv new b3; rm b3; ln b hard; ln -s b soft; chmod 600 b");
    const write = await changed("/var/other/new", FileOperation.CREATE);
    expect(write).toMatchObject({ section: Section.FILESYSTEM, delivery: Delivery.AUDITED });
    expect(write.event?.actor?.path).toBe("/bin/sh");
    expect((await changed("/var/other/new", FileOperation.RENAME)).change.newPath).toBe("/var/other/b3");
    await changed("/var/other/b3", FileOperation.DELETE);
    expect((await changed("/var/other/b", FileOperation.LINK)).change.newPath).toBe("/var/other/hard");
    await changed("/var/other/soft", FileOperation.CREATE);
    await changed("/var/other/b", FileOperation.CHANGE_MODE);
  });

  onKernel("accounts, keys, the loader's files and executables have detectors of their own", async () => {
    await sh(
      "echo x >> /etc/passwd; echo k >> /root/.ssh/authorized_keys; echo l > /etc/ld.so.preload; cp /bin/sh /var/data/x; chmod +x /var/data/x",
    );
    for (const detector of ["account_files", "ssh_files", "loader_files", "changed_binary"]) {
      const audit = await rig.audited(detector, (a) => a.decision?.detector === detector);
      expect(audit.decision?.outcome).toBe(Outcome.DETECTION);
    }
  });

  onKernel("a library is told by its name, whatever its mode; so is one that is moved or linked there", async () => {
    await sh("echo x > /tmp/libx.so.1; echo y > /tmp/y; mv /tmp/y /tmp/liby.so; ln -s /etc/passwd /tmp/libz.so");
    for (const name of ["libx.so.1", "liby.so", "libz.so"]) {
      const audit = await rig.audited(name, (a) => a.message.includes(name));
      expect(audit.decision).toMatchObject({ detector: "changed_binary", outcome: Outcome.DETECTION });
    }
  });

  onKernel("changes through the 32-bit table are told like all others", async () => {
    expect((await web.exec(CALLS, "32", "open", "/var/other/c32")).output.trim()).toBe("ok");
    expect((await web.exec(CALLS, "32", "chmod", "/var/other/c32")).output.trim()).toBe("ok");
    expect((await web.exec(CALLS, "32", "unlink", "/var/other/c32")).output.trim()).toBe("ok");
    await changed("/var/other/c32", FileOperation.CREATE);
    await changed("/var/other/c32", FileOperation.CHANGE_MODE);
    await changed("/var/other/c32", FileOperation.DELETE);
  });

  onKernel("a mode given through a link is told of the file that has it", async () => {
    await sh("ln -s /var/other/handled /tmp/way; chmod 600 /tmp/way");
    expect((await changed("/var/other/handled", FileOperation.CHANGE_MODE)).change.mode & 0o777).toBe(0o600);
    expect(changes().some(({ change: c }) => c.path === "/tmp/way" && c.operation !== FileOperation.CREATE)).toBe(
      false,
    );
  });

  onKernel("rights given by an attribute are told as a mode is; other attributes are not", async () => {
    for (const [what, name] of [
      ["setxattr", "system.posix_acl_access"],
      ["fsetxattr", "security.capability"],
      ["setxattr", "user.note"],
    ] as const) {
      const path = `/var/other/${what}-${name}`;
      await sh(`echo x > ${path}`);
      await changed(path, FileOperation.CREATE);
      expect((await web.exec(CALLS, "grant", what, path, name)).output.trim()).toMatch(/^(ok|EOPNOTSUPP|ENOTSUP)$/);
    }
    await changed("/var/other/setxattr-system.posix_acl_access", FileOperation.CHANGE_MODE);
    await changed("/var/other/fsetxattr-security.capability", FileOperation.CHANGE_MODE);
    // A folder that is opened by all is told too, and is no executable.
    await sh("/bin/mkdir /var/other/folder; /bin/chmod 755 /var/other/folder");
    expect((await web.exec(CALLS, "grant", "fchmod", "/var/other/folder", "")).output.trim()).toBe("ok");
    const told = await until("the folder's modes", 5_000, () => {
      const all = changes().filter(({ change: c }) => c.path === "/var/other/folder");
      return new Set(all.map((a) => a.event?.actor?.path)).size === 2 ? all : undefined;
    });
    expect(told.filter(({ decision }) => decision?.detector === "changed_binary")).toEqual([]);
    expect(
      changes().some(({ change: c }) => c.path.includes("user.note") && c.operation !== FileOperation.CREATE),
    ).toBe(false);
  });

  onKernel("other names of a file are told with the file, whatever way it was named by", async () => {
    await sh("echo x > /var/other/linked; ln -s /var/other/linked /tmp/alias");
    for (const [how, from, told] of [
      ["follow", "/tmp/alias", "/var/other/linked"],
      ["proc", "/var/other/linked", "/var/other/linked"],
      ["empty", "/var/other/linked", "/var/other/linked"],
      ["plain", "/tmp/alias", "/tmp/alias"],
    ] as const) {
      const to = `${how === "plain" ? "/tmp" : "/var/other"}/by-${how}`;
      expect((await web.exec(CALLS, "link", how, from, to)).output.trim(), how).toBe("ok");
      const audit = await until(how, 5_000, () => changes().find(({ change: c }) => c.newPath === to));
      expect(audit.change).toMatchObject({ operation: FileOperation.LINK, path: told });
    }
  });

  onKernel("another owner is told as another mode is", async () => {
    for (const how of ["chown", "fchown", "lchown", "fchownat", "empty", "32"]) {
      const path = `/var/other/owned-by-${how}`;
      await sh(`echo x > ${path}`);
      const args = how === "32" ? ["32", "chown", path] : ["own", how, path];
      expect((await web.exec(CALLS, ...args)).output.trim(), how).toBe("ok");
      await changed(path, FileOperation.CHANGE_MODE);
    }
    // A program that gets another owner is none that was changed.
    await sh("/bin/cp /bin/sleep /var/other/program");
    await web.exec(CALLS, "own", "chown", "/var/other/program");
    const program = await changed("/var/other/program", FileOperation.CHANGE_MODE);
    expect(program.change.isExecutable).toBe(false);
    await sh("ln -s /var/other/handled /tmp/owned; ln -s /var/other/b /tmp/unowned");
    await web.exec(CALLS, "own", "chown", "/tmp/owned");
    await web.exec(CALLS, "own", "lchown", "/tmp/unowned");
    await changed("/tmp/unowned", FileOperation.CHANGE_MODE);
    await until("the file behind the link", 5_000, () =>
      changes().find(({ change: c, event }) => c.path === "/var/other/handled" && event?.actor?.path === CALLS),
    );
    expect(changes().some(({ change: c }) => c.path === "/tmp/owned" && c.operation !== FileOperation.CREATE)).toBe(
      false,
    );
  });

  onKernel("an executable that is cut short by its path is told as one", async () => {
    await sh("cp /bin/sh /var/data/cut; chmod 700 /var/data/cut; ln -s /var/data/cut /tmp/cut");
    expect((await web.exec(CALLS, "truncate", "/tmp/cut")).output.trim()).toBe("ok");
    const is = ({ operation, path }: { operation: FileOperation; path: string }, actor = "") =>
      operation === FileOperation.WRITE && path === "/var/data/cut" && actor === CALLS;
    const cut = await until("it was cut", 10_000, () => changes().find((a) => is(a.change, a.event?.actor?.path)));
    expect(cut.decision).toMatchObject({ detector: "changed_binary", outcome: Outcome.DETECTION });
  });

  onKernel("a file that an open for reading makes or empties is told, however it is opened", async () => {
    const probe = (...what: string[]) => web.exec(CALLS, "reading", ...what);
    for (const call of ["open", "openat2"]) {
      const path = `/var/other/by-${call}`;
      expect((await probe(path, "create", call)).output.trim()).toBe("ok");
      await changed(path, FileOperation.CREATE);
      expect((await probe(path, "create", call)).output.trim()).toBe("ok");
      expect((await probe(path, "nothing", call)).output.trim()).toBe("ok");
      expect((await probe(path, "empty", call)).output.trim()).toBe("ok");
      expect((await changed(path, FileOperation.WRITE)).event?.actor?.path).toBe(CALLS);
      const ofIt = changes().filter(({ change: c }) => c.path === path);
      expect(ofIt.map(({ change: c }) => c.operation)).toEqual([FileOperation.CREATE, FileOperation.WRITE]);
      await probe(`${path}-odd`, "create", call);
      expect((await probe(`${path}-odd`, "odd", call)).output.trim()).toBe("ok");
      await changed(`${path}-odd`, FileOperation.WRITE);
    }
  });

  onKernel("files opened for writing are all seen, whatever another thread puts under their descriptors", async () => {
    const container = await rig.watched("web");
    const row = () =>
      rig.agent.stats?.rows.find((r) => r.cgroupId === container.cgroup.id && r.section === Section.FILESYSTEM);
    let last = rig.agent.stats;
    let counted = -1n;
    /** How many were seen, once a second went by without another. */
    const seen = () =>
      until("counters that stand still", 10_000, () => {
        if (rig.agent.stats === last) return undefined;
        const now = row()?.seen ?? 0n;
        const isStill = now === counted;
        last = rig.agent.stats;
        counted = now;
        return isStill ? { count: now } : undefined;
      });
    const before = await seen();
    const { output } = await web.exec(CALLS, "swapped", "/var/other", "3000");
    const [opened, swapped] = output.trim().split(" ").map(BigInt);
    expect(opened).toBe(3_000n);
    expect(swapped).toBeGreaterThan(0n);
    expect((await seen()).count - before.count).toBe(3_000n);
  });

  onKernel(
    "a folder that is moved away, or into the place of one that a detector watches, is found by it",
    async () => {
      await sh("mv /root /root.old; mkdir -p /var/new/.ssh; mv /var/new /root");
      const found = await rig.audited("the folder put in place", (a) => a.message.includes("to `/root`"));
      expect(found.decision).toMatchObject({ detector: "ssh_files", outcome: Outcome.DETECTION });
      await rig.audited("the folder moved away", (a) => a.message.includes("renamed to `/root.old`"));
      await sh("mv /root /var/gone; mv /root.old /root");
    },
  );

  onKernel("names are real ones, whatever the process calls its root, its folder or an open one", async () => {
    await sh("echo x > /var/other/odd; ln -s /other /var/way; ln -s /proc/self /tmp/me");
    const renamed = async (from: string, to: string, ...how: string[]) => {
      expect((await web.exec(CALLS, "typed", ...how)).output.trim()).toBe("ok");
      const { change } = await until(`${from} renamed to ${to}`, 5_000, () =>
        changes().find(({ change: c }) => c.operation === FileOperation.RENAME && c.newPath === `/var/other/${to}`),
      );
      expect(change.path).toBe(`/var/other/${from}`);
    };
    await renamed("odd", "by-folder", "-", "/var/other", "odd", "/proc/self/cwd/by-folder");
    await renamed("by-folder", "by-number", "-", "/var/other", "by-folder", "/proc/self/fd/9/by-number");
    await renamed("by-number", "by-link", "-", "/var/other", "by-number", "/tmp/me/cwd/by-link");
    await renamed("by-link", "by-root", "/var", "/", "/other/by-link", "/other/../../other/by-root");
    await renamed("by-root", "by-way", "/var", "/other", "by-root", "/way/by-way");
    await renamed("by-way", "by-near-way", "/var", "/other", "by-way", "../way/by-near-way");
    // Also of who has gone before it could be asked.
    await sh("/bin/mv /var/other/by-near-way /proc/self/root/var/other/at-last");
    await changed("/var/other/by-near-way", FileOperation.RENAME);
    expect(changes().some(({ change: c }) => c.newPath === "/var/other/at-last")).toBe(true);
  });

  onKernel("names with line ends are told on one line, and paths too long as cut", async () => {
    await sh("echo x > '/var/other/a\nb'; mv '/var/other/a\nb' '/var/other/c\nd'");
    const odd = await changed("/var/other/a\\x0ab", FileOperation.RENAME);
    expect(odd.change.newPath).toBe("/var/other/c\\x0ad");
    expect(odd.message).not.toContain("\n");
    const deep = Array(8).fill("d".repeat(100)).join("/");
    await sh(
      `mkdir -p /var/other/${deep}; echo x > /var/other/${deep}/f; mv /var/other/${deep}/f /var/other/${deep}/g`,
    );
    for (const operation of [FileOperation.CREATE, FileOperation.RENAME]) {
      await until("a path that was cut", 5_000, () =>
        changes().find(({ change: c }) => c.operation === operation && c.path.startsWith("…")),
      );
    }
  });

  onKernel("a file opened by its handle is told by its path", async () => {
    expect((await web.exec(CALLS, "handle", "/var/other/handled")).output.trim()).toBe("ok");
    const write = await changed("/var/other/handled", FileOperation.WRITE);
    expect(write.event?.actor?.path).toBe(CALLS);
  });

  onKernel("under prevent a denied file cannot be opened for writing, but read; the audit says so", async () => {
    await rig.rules({
      filesystem: { effect: Effect.PREVENT, denied: ["/etc/passwd", "/var/other/*"], detectors: { account_files: {} } },
    });
    expect((await web.exec(PROBE, "open", "/etc/passwd")).output.trim()).toBe("EPERM");
    expect((await web.exec(PROBE, "read", "/etc/passwd")).output.trim()).toBe("ok");
    expect((await web.exec(CALLS, "32", "open", "/etc/passwd")).output.trim()).toBe("EPERM");
    expect((await web.exec(CALLS, "32", "read", "/etc/passwd")).output.trim()).toBe("ok");
    expect((await sh("echo x >> /var/other/b")).output).toContain("Operation not permitted");
    expect((await web.exec(PROBE, "open", "/etc/shadow")).output.trim()).toBe("EPERM");
    expect(readFileSync(join(web.rootfs, "var/other/b"), "utf8")).toBe("b");
    const audit = await rig.audited(
      "the refused open",
      (a) => a.delivery === Delivery.DENIED && a.message.includes("passwd"),
    );
    expect(audit).toMatchObject({ deliveryNote: "the open failed with EPERM" });
    expect(audit.decision).toMatchObject({ outcome: Outcome.DENIAL, effectApplied: Effect.PREVENT });
  });

  onKernel("a link, another name or a file put in its place do not get around it", async () => {
    await sh("ln -s /etc/passwd /tmp/p; ln /etc/passwd /etc/p2");
    expect((await web.exec(PROBE, "open", "/tmp/p")).output.trim()).toBe("EPERM");
    await sh("cp /etc/passwd /tmp/copy; mv /tmp/copy /etc/passwd");
    expect((await web.exec(PROBE, "open", "/etc/passwd")).output.trim()).toBe("EPERM");
  });

  onKernel("a program of a folder that may not be written to runs, by either table of calls", async () => {
    await sh("/bin/mkdir /var/tools; /bin/cp /bin/sleep /var/tools/sleep");
    await rig.rules({ filesystem: { effect: Effect.PREVENT, denied: ["/etc/passwd", "/etc/shadow", "/var/tools/*"] } });
    expect((await web.exec(PROBE, "open", "/var/tools/sleep")).output.trim()).toBe("EPERM");
    expect((await sh("/var/tools/sleep 0; echo $?")).output.trim()).toBe("0");
    // Without arguments it says how it is used.
    expect((await web.exec(CALLS, "32", "exec", "/var/tools/sleep")).output).not.toContain("EPERM");
  });

  onKernel("what cannot be refused here is said to have happened", async () => {
    await sh("rm /var/other/b");
    const audit = await changed("/var/other/b", FileOperation.DELETE);
    expect(audit).toMatchObject({ delivery: Delivery.NOT_POSSIBLE });
    expect(audit.deliveryNote).toContain("this node could not refuse it");
  });

  onKernel(
    "a sensor that stands still holds an open for no longer than three seconds, one that dies for none",
    async () => {
      const sensor = rig.agent.sensorPid ?? 0;
      process.kill(sensor, "SIGSTOP");
      const begin = performance.now();
      const { output } = await web.exec(PROBE, "read", "/etc/passwd");
      expect(output.trim()).toBe("ok");
      expect(performance.now() - begin).toBeLessThan(3_000);
      await rig.audited("the lost sensor", (a) => a.system?.name === "sensor_lost");
      await rig.audited("the new sensor", (a) => a.system?.name === "sensor_restarted");
      expect((await web.exec(PROBE, "open", "/etc/passwd")).output.trim()).toBe("EPERM");
    },
  );

  onKernel("a FIFO in a watched folder does not hold up anybody else", async () => {
    const reader = sh("mkfifo /etc/fifo; timeout 3 cat /etc/fifo");
    await until("the reader to wait", 3_000, () => existsSync(join(web.rootfs, "etc/fifo")) || undefined);
    const begin = performance.now();
    expect((await web.exec(PROBE, "open", "/etc/passwd")).output.trim()).toBe("EPERM");
    expect(performance.now() - begin).toBeLessThan(1_500);
    await reader;
  });

  onKernel("thousands of refused opens are all refused", async () => {
    expect((await web.exec(PROBE, "opens", "/etc/passwd", "3000")).output.trim()).toBe("3000 of 3000 failed");
  });

  onKernel("block ends process and container when a denied file is opened where it could not be refused", async () => {
    await rig.rules({ filesystem: { effect: Effect.BLOCK, denied: ["/tmp/secret"] } });
    await web.exec(PROBE, "open", "/tmp/secret");
    const audit = await rig.audited("the opened file", (a) => a.message.includes("/tmp/secret"));
    expect(audit).toMatchObject({ delivery: Delivery.AFTER_THE_FACT });
    expect(audit.deliveryNote).toMatch(/ended before it could go on; container stopped/);
    expect((await web.ended).status).toBe(137);
  });
});
