import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, renameSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../../test/requirements.ts";
import { AgentRig } from "../../tools/sandbox/agent-rig.ts";
import { testProgram } from "../../tools/sandbox/programs.ts";
import { Sandbox } from "../../tools/sandbox/runc.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const IDLE = ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"];
const PROBE = "/opt/netprobe";
const DEEP = `cd "$0"; i=0; while [ $i -lt 20 ]; do mkdir ${"d".repeat(250)}; cd -P ${"d".repeat(250)}; i=$((i+1)); done`;

onKernel("a container that has made itself too deep to be read is watched when it runs again", async () => {
  await using rig = await AgentRig.open("deep", LearningState.LEARNING);
  await rig.rules({ process: { effect: Effect.ALERT } });
  const options = { args: IDLE, programs: ["/bin/sh", "/bin/sleep"] };
  const web = rig.sandbox.start("web", options);
  await rig.watched("web");
  await web[Symbol.asyncDispose]();
  execFileSync("/bin/sh", ["-c", DEEP, web.rootfs]);
  // Node cannot remove it either.
  using _ = { [Symbol.dispose]: () => void execFileSync("rm", ["-rf", join(web.rootfs, "d".repeat(250))]) };
  rig.sandbox.restart("again", join(web.rootfs, ".."));
  await rig.watched("again");
  await rig.learned("/bin/sleep");
  const audit = await rig.audited("the part", (a) => a.system?.name === "image_read_in_part");
  expect(audit.container?.containerId).toBe("again");
  expect(rig.audits.some((a) => a.system?.name === "container_not_watched")).toBe(false);
});

onKernel("a container whose bundle is gone is told as not watched, once, and watched once it is back", async () => {
  const sandbox = await Sandbox.open(AgentRig.groupOf("bundle"), mkdtempSync(join(tmpdir(), "gabion-bundle-")));
  await using _ = sandbox;
  const web = sandbox.start("web", { args: IDLE, programs: ["/bin/sh", "/bin/sleep"] });
  await web.exec("/bin/sh", "-c", "true");
  const config = join(web.rootfs, "../config.json");
  renameSync(config, `${config}.away`);
  await using rig = await AgentRig.over(sandbox, LearningState.LEARNING, { process: { effect: Effect.ALERT } });
  const told = () => rig.audits.filter((a) => a.system?.name === "container_not_watched");
  await rig.audited("it", (a) => a.system?.name === "container_not_watched" && a.message.includes("container web"));
  await rig.agent.containers.scan();
  expect(told()).toHaveLength(1);
  renameSync(`${config}.away`, config);
  await rig.agent.containers.scan();
  await rig.watched("web");
});

onKernel("more folders than can be watched leave named files refused, and that is told", async () => {
  await using rig = await AgentRig.open("folders", LearningState.ACTIVE);
  await rig.rules({ filesystem: { effect: Effect.PREVENT, denied: ["/var/lib/*", "/etc/passwd"] } });
  const web = rig.sandbox.start("web", {
    args: IDLE,
    programs: ["/bin/sh", "/bin/sleep"],
    files: {
      [PROBE]: { content: testProgram("netprobe"), mode: 0o755 },
      "/etc/passwd": { content: "root:x:0:0::/:/bin/sh\n", mode: 0o644 },
      "/var/lib/a": { content: "", mode: 0o644 },
    },
  });
  await rig.watched("web");
  const opens = async (path: string) => (await web.exec(PROBE, "open", path)).output.trim();
  expect(await opens("/etc/passwd")).toBe("EPERM");
  expect(rig.audits.some((a) => a.system?.name === "watch_incomplete")).toBe(false);
  for (let i = 0; i < 5_000; i += 1) mkdirSync(join(web.rootfs, "var/lib", `${i}-${"x".repeat(200)}`));
  await rig.rules({ filesystem: { effect: Effect.PREVENT, denied: ["/var/lib/*", "/etc/passwd", "/etc/shadow"] } });
  expect(await opens("/etc/passwd")).toBe("EPERM");
  expect(await opens("/etc/shadow")).toBe("EPERM");
  expect(await opens("/var/lib/a")).toBe("EPERM");
  const audit = await rig.audited("the rest", (a) => a.system?.name === "watch_incomplete");
  expect(audit.message).toContain("more folders there than can be watched");
});
