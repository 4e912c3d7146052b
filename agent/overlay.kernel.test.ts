import { existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { FileOperation } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Delivery, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { until } from "../tools/demo/until.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";
import type { SandboxContainer } from "../tools/sandbox/runc.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const PROBE = "/opt/netprobe";
const PROGRAMS = [
  "/bin/sh",
  "/bin/sleep",
  "/bin/cp",
  "/bin/mv",
  "/bin/rm",
  "/bin/cat",
  "/bin/chmod",
  "/opt/tool",
  "/opt/other",
];

describe("a container whose root file system is an overlay, with a volume", () => {
  let rig: AgentRig;
  let web: SandboxContainer;
  let volume: string;
  const sh = async (command: string) => (await web.exec("/bin/sh", "-c", command)).output.trim();
  const upper = (path: string) => join(web.rootfs, "../upper", path);
  const drift = (path: string) =>
    rig.audited(`drift of ${path}`, (a) => a.decision?.detector === "drift" && a.message.includes(`\`${path}\``));
  const changed = (path: string, operation: FileOperation) =>
    until(`${path} changed`, 5_000, () =>
      rig.audits.find(({ event }) => {
        const change = event?.kind.case === "fileChange" ? event.kind.value : undefined;
        return change?.path === path && change.operation === operation;
      }),
    );

  beforeAll(async () => {
    if (missing(...CONTAINERS) !== "") return;
    volume = mkdtempSync(join(tmpdir(), "gabion-volume-"));
    writeFileSync(join(volume, "kept"), "kept");
    rig = await AgentRig.open("overlay", LearningState.LEARNING);
    await rig.rules({ process: { effect: Effect.ALERT, detectors: { drift: {} } } });
    web = rig.sandbox.start("web", {
      args: ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"],
      programs: PROGRAMS,
      isOverlay: true,
      volumes: { "/data": volume },
      files: {
        [PROBE]: { content: testProgram("netprobe"), mode: 0o755 },
        "/etc/passwd": { content: "root:x:0:0::/:/bin/sh\n", mode: 0o644 },
        "/data/.keep": { content: "", mode: 0o644 },
      },
    });
    await rig.watched("web");
    await sh(
      "/bin/cat /etc/passwd; /bin/cp /etc/passwd /tmp/x; /bin/mv /tmp/x /tmp/y; /bin/rm /tmp/y; /opt/tool 0; /opt/other 0",
    );
    await rig.learned("/bin/rm");
    await rig.activate(LearningState.ACTIVE);
  });
  afterAll(async () => {
    await rig?.[Symbol.asyncDispose]();
    if (volume) await rm(volume, { recursive: true });
  });

  onKernel(
    "programs of the image are known; one that was made, changed or lies on the volume is not of the image",
    async () => {
      await sh("/bin/cat /etc/passwd >/dev/null; /opt/other 0");
      await sh("/bin/cp /bin/sleep /opt/made; /opt/made 0");
      expect((await drift("/opt/made")).message).toContain("is not in the image");
      await sh("/bin/cat /bin/cat > /opt/tool; /opt/tool /dev/null");
      expect((await drift("/opt/tool")).message).toContain("was changed since the image was made");
      await sh("/bin/cp /bin/sleep /data/brought; /data/brought 0");
      await drift("/data/brought");
      const known = rig.audits.filter(
        ({ message }) => message.includes("/opt/other") || message.includes("`/bin/cat`"),
      );
      expect(known.map(({ message }) => message)).toEqual([]);
    },
  );

  onKernel("files are told by the paths that the container sees, on the overlay and on the volume", async () => {
    await rig.rules({ filesystem: { effect: Effect.ALERT } });
    await sh(
      "echo x > /etc/new; /bin/mv /etc/new /etc/newer; echo y > /data/file; /bin/rm /data/file; echo z >> /etc/passwd",
    );
    await changed("/etc/new", FileOperation.CREATE);
    await changed("/etc/new", FileOperation.RENAME);
    await changed("/data/file", FileOperation.CREATE);
    await changed("/data/file", FileOperation.DELETE);
    await changed("/etc/passwd", FileOperation.WRITE);
    expect(existsSync(upper("etc/passwd"))).toBe(true);
  });

  onKernel(
    "what the image has is refused to be written, and stays as it is; what lies on the volume is told",
    async () => {
      await rig.rules({ filesystem: { effect: Effect.PREVENT, denied: ["/bin/*", "/etc/passwd", "/data/kept"] } });
      const opens = async (path: string) => (await web.exec(PROBE, "open", path)).output.trim();
      expect(await opens("/bin/cat")).toBe("EPERM");
      expect(existsSync(upper("bin/cat"))).toBe(false);
      expect(await opens("/etc/passwd")).toBe("EPERM");
      expect((await web.exec(PROBE, "read", "/bin/cat")).output.trim()).toBe("ok");
      expect(await opens("/data/kept")).toBe("ok");
      const told = await rig.audited("the volume", (a) => a.message.includes("/data/kept"));
      expect(told.delivery).toBe(Delivery.NOT_POSSIBLE);
      expect(readFileSync(join(volume, "kept"), "utf8")).toBe("kept");
    },
  );
});
