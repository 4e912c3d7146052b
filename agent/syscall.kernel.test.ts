import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { toSeccompProfile } from "#core/syscall/seccomp.ts";
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

describe("what system calls a container uses", () => {
  let rig: AgentRig;
  let web: SandboxContainer;
  const learned = () => rig.facts().flatMap(({ kind }) => (kind.case === "syscall" ? [kind.value] : []));
  const call = async (number: number, how = "syscall") => (await web.exec(PROBE, how, String(number))).output.trim();

  beforeAll(async () => {
    if (missing(...CONTAINERS) !== "") return;
    rig = await AgentRig.open("calls", LearningState.LEARNING);
    await rig.rules({ process: { effect: Effect.ALERT }, syscall: { effect: Effect.ALERT } });
    web = rig.sandbox.start("web", {
      args: ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"],
      programs: ["/bin/sh", "/bin/sleep"],
      files: { [PROBE]: { content: testProgram("netprobe"), mode: 0o755 } },
    });
    await rig.watched("web");
  });
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  onKernel("the set of calls is learned, without what the runtime needs to get in", async () => {
    await call(39);
    await until("getpid", 5_000, () => learned().find(({ name }) => name === "getpid"));
    const names = learned().map(({ name }) => name);
    expect(names).toContain("execve");
    for (const runtime of ["mount", "pivot_root", "setns", "unshare", "sethostname"])
      expect(names).not.toContain(runtime);
    expect(new Set(names).size).toBe(names.length);
  });

  onKernel("the learned set is a seccomp profile under which the container runs, and nothing else does", async () => {
    const options = {
      args: ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"],
      programs: ["/bin/sh", "/bin/sleep"],
      files: { [PROBE]: { content: testProgram("netprobe"), mode: 0o755 } },
    };
    const profile = toSeccompProfile(learned());
    expect(profile.syscalls[0]?.names).not.toContain("personality");
    const closed = rig.sandbox.start("closed", { ...options, seccomp: profile });
    await rig.watched("closed");
    expect((await closed.exec(PROBE, "syscall", "39")).output.trim()).toBe("ok");
    expect((await closed.exec(PROBE, "syscall", "135")).output.trim()).toBe("EPERM");
    expect((await closed.exec("/bin/sh", "-c", "/bin/sleep 0.1; echo done")).output.trim()).toBe("done");
    expect(await closed.isRunning()).toBe(true);
  });

  onKernel("once active the first use of an unknown call is told, once; known ones are not", async () => {
    await rig.activate(LearningState.ACTIVE);
    await call(39);
    await call(101);
    await call(101);
    const audit = await rig.audited("ptrace", (a) => a.message.includes("`ptrace`"));
    expect(audit).toMatchObject({ section: Section.SYSCALL, delivery: Delivery.AUDITED });
    expect(audit.decision).toMatchObject({ outcome: Outcome.DEVIATION });
    expect(audit.event?.actor?.path).toBe(PROBE);
    expect(rig.audits.filter((a) => a.message.includes("`ptrace`"))).toHaveLength(1);
    expect(rig.audits.some((a) => a.message.includes("`getpid`"))).toBe(false);
  });

  onKernel("calls of the 32-bit table are seen as such, and so is io_uring's set-up", async () => {
    await call(20, "syscall32");
    await call(425);
    const audit = await rig.audited("the 32-bit call", (a) => a.message.includes("(32-bit)"));
    expect(audit.event?.kind).toMatchObject({ case: "syscallUse", value: { name: "getpid", isCompat: true } });
    await rig.audited("io_uring", (a) => a.message.includes("`io_uring_setup`"));
  });

  for (const [name, ...how] of [
    ["`getcpu`", "syscall", "309"],
    ["`getpid` (32-bit)", "syscall32", "20"],
  ] as const) {
    onKernel(`block ends a container at the first use of ${name}, which the model does not know`, async () => {
      const id = `unknown-${how[0]}`;
      const from = rig.audits.length;
      await rig.rules(
        { scope: { containers: [id] }, syscall: { effect: Effect.BLOCK } },
        { process: { effect: Effect.ALERT }, syscall: { effect: Effect.ALERT } },
      );
      const unknown = rig.sandbox.start(id, {
        args: ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"],
        programs: ["/bin/sh", "/bin/sleep"],
        files: { [PROBE]: { content: testProgram("netprobe"), mode: 0o755 } },
      });
      await rig.watched(id);
      expect((await unknown.exec(PROBE, "syscall", "39")).output.trim()).toBe("ok");
      expect((await unknown.exec(PROBE, ...how)).output).not.toContain("ok");
      expect((await unknown.ended).status).toBe(137);
      const audit = await rig.audited(name, (a) => rig.audits.indexOf(a) >= from && a.message.includes(name));
      expect(audit).toMatchObject({ delivery: Delivery.AFTER_THE_FACT, decision: { outcome: Outcome.DEVIATION } });
      expect(audit.container?.containerId).toBe(id);
    });
  }

  onKernel("block ends the container at a denied call, though it was known and made a moment ago", async () => {
    // On each processor: what is seen again is not looked at again until rules change.
    for (let i = 0; i < 12; i += 1) await call(39);
    await rig.rules({ syscall: { effect: Effect.BLOCK, denied: ["getpid"], allowed: ["ptrace"] } });
    await call(39);
    const audit = await rig.audited("the denied call", (a) => a.decision?.outcome === Outcome.DENIAL);
    expect(audit).toMatchObject({ delivery: Delivery.AFTER_THE_FACT });
    expect(audit.deliveryNote).toMatch(/^the system call had been made; .*container stopped/);
    expect((await web.ended).status).toBe(137);
  });
});
