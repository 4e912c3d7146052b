import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { FileOperation, Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Delivery, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";
import type { SandboxContainer } from "../tools/sandbox/runc.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const PROBE = "/opt/ringprobe";

describe("what is asked for through io_uring", () => {
  let rig: AgentRig;
  let web: SandboxContainer;
  let from = 0;
  const ring = async (...args: string[]) => (await web.exec(PROBE, ...args)).output.trim();
  const changes = () =>
    rig.audits.slice(from).flatMap((audit) => {
      const kind = audit.event?.kind;
      return kind?.case === "fileChange" ? [{ audit, change: kind.value }] : [];
    });
  const told = async (operation: FileOperation, path: string) => {
    const is = ({ operation: other, path: otherPath }: { operation: FileOperation; path: string }) =>
      other === operation && otherPath === path;
    await rig.audited(`operation ${operation} of ${path}`, () => changes().some(({ change }) => is(change)));
    const found = changes().filter(({ change }) => is(change));
    expect(found).toHaveLength(1);
    return found[0] as (typeof found)[number];
  };

  beforeAll(async () => {
    if (missing(...CONTAINERS) !== "") return;
    rig = await AgentRig.open("ring", LearningState.ACTIVE);
    await rig.rules({
      process: { effect: Effect.ALERT },
      network: { effect: Effect.ALERT, detectors: { raw_socket: {} } },
      filesystem: { effect: Effect.ALERT, detectors: { changed_binary: {} } },
    });
    const text = { content: "x\n", mode: 0o644 };
    web = rig.sandbox.start("web", {
      args: ["/bin/sh", "-c", "cd /var/data; while true; do /bin/sleep 1; done"],
      programs: ["/bin/sh", "/bin/sleep", "/bin/ln"],
      capabilities: ["CAP_NET_RAW"],
      files: {
        [PROBE]: { content: testProgram("ringprobe"), mode: 0o755 },
        "/var/data/a": text,
        "/etc/passwd": text,
        "/opt/tool": { content: "x", mode: 0o755 },
      },
    });
    await rig.watched("web");
  });
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  onKernel("files changed are told with real paths and as asked for; reading is not", async () => {
    await web.exec("/bin/ln", "-s", "/var/data", "/tmp/link");
    expect(await ring("read", "/etc/passwd")).toBe("ok");
    expect(await ring("write", "/var/data/a")).toBe("ok");
    expect(await ring("create", "/tmp/link/b")).toBe("ok");
    expect(await ring("link", "/var/data/b", "/var/data/c")).toBe("ok");
    expect(await ring("rename", "/var/data/c", "/var/data/d")).toBe("ok");
    expect(await ring("symlink", "/etc/passwd", "/var/data/e")).toBe("ok");
    expect(await ring("unlink", "/var/data/d")).toBe("ok");
    const write = await told(FileOperation.WRITE, "/var/data/a");
    expect(write.change).toMatchObject({ isIoUring: true, isExecutable: false });
    expect(write.audit).toMatchObject({ section: Section.FILESYSTEM, delivery: Delivery.AUDITED });
    expect(write.audit.event?.actor?.path).toBe(PROBE);
    await told(FileOperation.CREATE, "/var/data/b");
    expect((await told(FileOperation.LINK, "/var/data/b")).change.newPath).toBe("/var/data/c");
    expect((await told(FileOperation.RENAME, "/var/data/c")).change.newPath).toBe("/var/data/d");
    await told(FileOperation.CREATE, "/var/data/e");
    await told(FileOperation.DELETE, "/var/data/d");
    expect(changes().filter(({ change }) => change.path === "/etc/passwd")).toEqual([]);
  });

  onKernel("also where a thread of the kernel takes it, or success is to be silent", async () => {
    from = rig.audits.length;
    expect(await ring("polled", "create", "/var/data/polled")).toBe("ok");
    expect(await ring("silent", "unlink", "/var/data/polled")).toBe("ok");
    const polled = await told(FileOperation.CREATE, "/var/data/polled");
    expect(polled.audit.event?.actor?.path).toBe(PROBE);
    await told(FileOperation.DELETE, "/var/data/polled");
  });

  onKernel(
    "a link at the end of a path is followed where the call follows it, and executables are known as such",
    async () => {
      from = rig.audits.length;
      await web.exec("/bin/ln", "-s", "/opt/tool", "/var/data/tool");
      expect(await ring("write", "/var/data/tool")).toBe("ok");
      const { audit, change } = await told(FileOperation.WRITE, "/opt/tool");
      expect(change.isExecutable).toBe(true);
      expect(audit.decision?.detector).toBe("changed_binary");
    },
  );

  onKernel("what the file system watch refuses is told once, as refused", async () => {
    await rig.rules({ filesystem: { effect: Effect.PREVENT, denied: ["/etc/passwd", "/tmp/denied"] } });
    from = rig.audits.length;
    expect(await ring("write", "/etc/passwd")).toBe("EPERM");
    expect(await ring("create", "/tmp/denied")).toBe("ok");
    const { audit } = await told(FileOperation.CREATE, "/tmp/denied");
    expect(audit).toMatchObject({ delivery: Delivery.NOT_POSSIBLE });
    expect((await told(FileOperation.WRITE, "/etc/passwd")).audit).toMatchObject({ delivery: Delivery.DENIED });
  });

  onKernel("a packet socket is told, and under prevent ends its process", async () => {
    from = rig.audits.length;
    await rig.rules({ network: { effect: Effect.ALERT, detectors: { raw_socket: {} } } });
    expect(await ring("packet")).toBe("ok");
    await rig.audited("the packet socket", (a) => rig.audits.indexOf(a) >= from && a.event?.kind.case === "rawSocket");
    await rig.rules({ network: { effect: Effect.PREVENT, detectors: { raw_socket: {} } } });
    const { status, output } = await web.exec(PROBE, "packet");
    expect({ status, output }).toEqual({ status: 137, output: "" });
    const audit = await rig.audited("the kill", (a) => a.delivery === Delivery.KILLED);
    expect(audit.event?.kind.case).toBe("rawSocket");
    expect(await web.isRunning()).toBe(true);
  });
});
