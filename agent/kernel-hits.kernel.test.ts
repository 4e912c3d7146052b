import { create } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { eventText } from "#core/text/event-text.ts";
import { type Fact, FactSchema, LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect, Outcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { until } from "../tools/demo/until.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";
import type { SandboxContainer } from "../tools/sandbox/runc.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const IDLE = ["/bin/sh", "-c", "while true; do /bin/sleep 60; done"];
const PROBE = "/opt/netprobe";
const HOST = "203.0.113.5";
const INTERNAL = "10.1.2.3";

describe("what the kernel lets through by itself", () => {
  let rig: AgentRig;
  let web: SandboxContainer;
  let facts: Fact[];
  const run = async (...args: string[]) => (await web.exec(...(args as [string]))).output.trim();

  const hits = () => {
    const sums = new Map<string, number>();
    for (const { entry, count } of rig.hits) sums.set(entry, (sums.get(entry) ?? 0) + count);
    return sums;
  };
  const notes = () => rig.observations.flatMap((o) => (o.kind === "journal" ? [o.value] : []));
  /** How often the journal has something, all its notes together. */
  const noted = (text: string) =>
    notes()
      .filter(({ event }) => event && eventText(event).includes(text))
      .reduce((sum, { count }) => sum + Number(count), 0);

  beforeAll(async () => {
    if (missing(...CONTAINERS) !== "") return;
    rig = await AgentRig.open("hits", LearningState.LEARNING);
    await rig.rules({
      process: { effect: Effect.ALERT },
      network: { effect: Effect.ALERT },
      dns: { effect: Effect.ALERT },
      filesystem: { effect: Effect.ALERT },
      syscall: { effect: Effect.ALERT },
    });
    web = rig.sandbox.start("web", {
      args: IDLE,
      programs: ["/bin/sh", "/bin/sleep", "/bin/date", "/bin/touch", "/bin/id", "/bin/uname"],
      files: { [PROBE]: { content: testProgram("netprobe"), mode: 0o755 } },
    });
    await rig.watched("web");
    await web.addAddresses(HOST, INTERNAL, "198.51.100.7", "10.0.0.53");
    await run("/bin/date");
    await run("/bin/touch", "/tmp/a");
    await run(PROBE, "tcp", HOST, "443");
    await run(PROBE, "dns", "udp", "10.0.0.53", "known.example", "1");
    await rig.learned("/bin/date");
    await until("what is learned", 10_000, () => {
      const kinds = new Set(rig.facts().map(({ kind }) => kind.case));
      return ["outbound", "domain", "file", "process"].every((kind) => kinds.has(kind as "file")) || undefined;
    });
    await rig.rules({
      process: { effect: Effect.PREVENT, allowed: [{ process: "/bin/i*" }, { process: "/bin/uname" }] },
      network: { effect: Effect.PREVENT, allowed: { outboundPorts: [{ first: 8000, last: 8010 }] } },
      dns: { effect: Effect.PREVENT, allowed: ["*.allowed.example"] },
      filesystem: { effect: Effect.ALERT, allowed: ["/srv/*"] },
      syscall: { effect: Effect.ALERT },
    });
    facts = rig.facts();
    await rig.activate(LearningState.ACTIVE, facts);
    // What the time of learning left is told by now or never.
    await web.exec("/bin/uname");
    await until("the first under the new policy", 10_000, () => noted("/bin/uname") > 0 || undefined);
    rig.hits.length = 0;
    rig.observations.length = 0;
  });
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  onKernel("is counted for the rule, for the item of the model and in the journal, exactly", async () => {
    for (let i = 0; i < 20; i += 1) await run("/bin/date");
    for (let i = 0; i < 7; i += 1) await run("/bin/touch", `/tmp/new-${i}`);
    for (let i = 0; i < 5; i += 1) await run(PROBE, "tcp", HOST, "443");
    for (let i = 0; i < 4; i += 1) await run(PROBE, "dns", "udp", "10.0.0.53", "known.example", "1");
    const dateId = "the start of `/bin/date`";
    await until("twenty of them in the journal", 30_000, () => noted(dateId) >= 20 || undefined);
    await until("connections in the journal", 30_000, () => noted("tcp/443") >= 5 || undefined);
    await until("look-ups in the journal", 30_000, () => noted("known.example") >= 4 || undefined);
    await until("files in the journal", 30_000, () => noted("write of `/tmp/-`") >= 7 || undefined);
    expect([noted(dateId), noted("the start of `/bin/touch`"), noted("look-up of `known.example`")]).toEqual([
      20, 7, 4,
    ]);
    const seen = rig.observations.flatMap((o) => (o.kind === "seen" && !o.value.isFirstPart ? [o.value] : []));
    const counts = seen.flatMap(({ itemIds, counts: each }) => itemIds.map((id, i) => [id, each[i] ?? 0] as const));
    expect(counts.some(([, count]) => count >= 20)).toBe(true);
    // Every one of them is the rule's too.
    expect(hits().get("")).toBeGreaterThanOrEqual(36);
    expect(rig.audits.filter(({ event }) => event !== undefined)).toEqual([]);
  });

  onKernel("by a list is told once for each thing, and counted for the entry", async () => {
    for (let i = 0; i < 6; i += 1) await run("/bin/uname");
    for (let i = 0; i < 6; i += 1) await run(PROBE, "tcp", HOST, "8001");
    await run(PROBE, "tcp", HOST, "8002");
    for (const name of ["a", "b", "a", "a"])
      await run(PROBE, "dns", "udp", "10.0.0.53", `${name}.allowed.example`, "1");
    for (let i = 0; i < 3; i += 1) await run(PROBE, "tcp", INTERNAL, "5432");
    const list = (entry: string) => hits().get(entry) ?? 0;
    await until("six of the program", 30_000, () => list("process.allowed: /bin/uname") >= 6 || undefined);
    await until("seven of the ports", 30_000, () => list("network.allowed: 8000-8010") >= 7 || undefined);
    await until("four of the names", 30_000, () => list("dns.allowed: *.allowed.example") >= 4 || undefined);
    expect(list("process.allowed: /bin/uname")).toBe(6);
    expect(list("network.allowed: 8000-8010")).toBe(7);
    expect(list("dns.allowed: *.allowed.example")).toBe(4);
    for (const text of ["tcp/8001", "tcp/8002", "`a.allowed.example`", "`b.allowed.example`", "tcp/5432"])
      await until(`${text} in the journal`, 10_000, () => noted(text) > 0 || undefined);
    expect(notes().every(({ outcome }) => outcome === Outcome.ALLOW || outcome === Outcome.DEVIATION)).toBe(true);
  });

  onKernel("goes on to be counted under a new policy, and what was counted before is not lost", async () => {
    const before = noted("the start of `/bin/date`");
    for (let i = 0; i < 5; i += 1) await run("/bin/date");
    const more = create(FactSchema, { kind: { case: "domain", value: { name: "new.example", recordType: 1 } } });
    await rig.activate(LearningState.ACTIVE, [...facts, more]);
    for (let i = 0; i < 3; i += 1) await run("/bin/date");
    await web[Symbol.asyncDispose]();
    await until("eight more", 30_000, () => noted("the start of `/bin/date`") >= before + 8 || undefined);
    expect(noted("the start of `/bin/date`")).toBe(before + 8);
  });
});
