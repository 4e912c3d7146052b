import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { factId } from "#core/model/fact.ts";
import { eventText } from "#core/text/event-text.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { type Fact, LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { until } from "../tools/demo/until.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";
import type { SandboxContainer } from "../tools/sandbox/runc.ts";
import { GRACE_MS } from "./enforce/slot-table.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const PROBE = "/opt/netprobe";
const INTERNET = "203.0.113.5";
const INTERNAL = "10.1.2.3";
const RESOLVER = "10.0.0.53";
const NETWORK = { effect: Effect.ALERT };
const FILES = { effect: Effect.ALERT };
const WEB = {
  args: ["/bin/sh", "-c", "while true; do /bin/sleep 60; done"],
  programs: ["/bin/sh", "/bin/sleep", "/bin/touch", "/bin/rm"],
  files: { [PROBE]: { content: testProgram("netprobe"), mode: 0o755 } },
};

/** How often reports for the model have a fact, all together. */
function countedIn(rig: AgentRig, of: Fact | undefined): number {
  const id = of && factId(of);
  return rig.observations
    .flatMap((o) => (o.kind === "seen" ? [o.value] : []))
    .flatMap(({ itemIds, counts }) => itemIds.map((itemId, i) => (itemId === id ? (counts[i] ?? 0) : 0)))
    .reduce((sum, count) => sum + count, 0);
}

/** As many as the kernel has counters for, in all. */
const COUNTERS = 131_072;
/** As many as the kernel has room for, of those that are looked up by their hash. */
const ENTRIES = 262_144;
/** Each try leaves a version behind, which has to go before the next one. */
const AFTER_GRACE_MS = GRACE_MS + 1_000;

describe("what a model that learns has already", () => {
  let rig: AgentRig;
  let web: SandboxContainer;
  const run = async (...args: string[]) => (await web.exec(...(args as [string]))).output.trim();
  const look = (name: string) => run(PROBE, "dns", "udp", RESOLVER, name, "1");

  /** How often the kernel let something of a section through by itself. */
  const passed = async (section: Section) => {
    const { cgroup } = await rig.watched("web");
    const row = rig.agent.stats?.rows.find((r) => r.cgroupId === cgroup.id && r.section === section);
    return Number(row?.allowed ?? 0n);
  };
  /** The one fact of which this is true. */
  const fact = (test: (kind: Fact["kind"]) => boolean) => rig.facts().find(({ kind }) => test(kind));
  const named = (name: string) => fact(({ case: kind, value }) => kind === "domain" && value.name === name);
  const reached = (address: string) =>
    fact(({ case: kind, value }) => kind === "outbound" && value.address === address);
  const counted = (of: Fact | undefined) => countedIn(rig, of);
  const reportsOf = (of: Fact | undefined, count: number) =>
    until(`${count} in reports`, 20_000, () => counted(of) >= count || undefined);

  beforeAll(async () => {
    if (missing(...CONTAINERS) !== "") return;
    rig = await AgentRig.open("learning-hits", LearningState.LEARNING);
    await rig.rules({ network: NETWORK, dns: { effect: Effect.ALERT }, filesystem: FILES });
    web = rig.sandbox.start("web", WEB);
    await rig.watched("web");
    await web.addAddresses(INTERNET, INTERNAL, RESOLVER);
    await look("known.example");
    await run(PROBE, "tcp", INTERNAL, "5432");
    await run(PROBE, "bind-udp", "0.0.0.0", "5000");
    await run("/bin/touch", "/tmp/a");
    await until("what is learned", 10_000, () => named("known.example") && reached(INTERNAL));
    await rig.activate(LearningState.LEARNING);
  });
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  onKernel("passes in the kernel, and counts for the model as often as it happened", async () => {
    const before = await Promise.all([Section.DNS, Section.NETWORK, Section.FILESYSTEM].map(passed));
    for (let i = 0; i < 6; i += 1) await look("known.example");
    for (let i = 0; i < 5; i += 1) await run(PROBE, "tcp", INTERNAL, "5432");
    for (let i = 0; i < 4; i += 1) await run(PROBE, "bind-udp", "0.0.0.0", "5000");
    for (let i = 0; i < 3; i += 1) await run("/bin/touch", `/tmp/${i}`);
    await until("the counters", 10_000, async () => {
      const now = await Promise.all([Section.DNS, Section.NETWORK, Section.FILESYSTEM].map(passed));
      const [dns = 0, network = 0, files = 0] = now.map((count, i) => count - (before[i] ?? 0));
      return (dns >= 6 && network >= 9 && files >= 3) || undefined;
    });
    const port = fact(({ case: kind, value }) => kind === "listen" && value.port === 5000);
    const folder = fact(
      ({ case: kind, value }) => kind === "file" && value.path === "/tmp" && value.processPath === "/bin/touch",
    );
    // With the one that taught it.
    const wanted = [
      [named("known.example"), 7],
      [reached(INTERNAL), 6],
      [port, 5],
      [folder, 4],
    ] as const;
    for (const [of, count] of wanted) await reportsOf(of, count);
    expect(wanted.map(([of]) => counted(of))).toEqual(wanted.map(([, count]) => count));
    const notes = rig.observations.flatMap((o) => (o.kind === "journal" ? [o.value] : []));
    expect(notes.some(({ event }) => event && eventText(event).includes("known.example"))).toBe(true);
  });

  onKernel("leaves everything else to be told: another name, another port, a direct connection", async () => {
    await look("other.example");
    await run(PROBE, "tcp", INTERNAL, "5433");
    for (let i = 0; i < 2; i += 1) await run(PROBE, "tcp", INTERNET, "443");
    await until("the other name", 10_000, () => named("other.example"));
    await until("the other port", 10_000, () =>
      fact(({ case: kind, value }) => kind === "outbound" && value.address === INTERNAL && value.port === 5433),
    );
    await reportsOf(reached(INTERNET), 2);
    // Without look-ups to compare with there is no direct connection: then its port is known.
    await rig.rules({ network: NETWORK, filesystem: FILES });
    await rig.activate(LearningState.LEARNING);
    const before = await passed(Section.NETWORK);
    for (let i = 0; i < 3; i += 1) await run(PROBE, "tcp", INTERNET, "443");
    const port = fact(({ case: kind, value }) => kind === "outbound" && value.address === "" && value.port === 443);
    await reportsOf(port, 5);
    expect([counted(port), (await passed(Section.NETWORK)) - before]).toEqual([5, 3]);
  });

  onKernel("is told where the kernel has no counters left for it", async () => {
    const denied = Array.from({ length: COUNTERS }, (_, i) => `n${i}.invalid`);
    await rig.rules({ network: NETWORK, dns: { effect: Effect.ALERT, denied }, filesystem: FILES });
    expect((await rig.watched("web")).use?.entries.length).toBeGreaterThan(COUNTERS);
    const [count, before] = [counted(named("known.example")), await passed(Section.DNS)];
    for (let i = 0; i < 4; i += 1) await look("known.example");
    await reportsOf(named("known.example"), count + 4);
    expect([counted(named("known.example")), await passed(Section.DNS)]).toEqual([count + 4, before]);
  });

  onKernel(
    "is told where the kernel has no room for it, and what the rule denies is still in force",
    async () => {
      const rule = (denied: string[]) => rig.rules({ network: NETWORK, dns: { effect: Effect.ALERT, denied } });
      const entries = async () => (await rig.watched("web")).use?.entries ?? [];
      const names = (count: number) => Array.from({ length: count }, (_, i) => `n${i}.invalid`);
      await rule([]);
      const besides = (await entries()).filter((entry) => !("bytes" in entry)).length;
      expect(besides).toBeGreaterThan(1);
      // One version of it fits, and beside it another without what is learned.
      const denied = names(Math.floor((ENTRIES - besides) / 2));
      const isWhole = async () => (await entries()).some(({ origin }) => origin);
      const isDenied = async () => (await entries()).length >= denied.length;
      await until(
        "the versions before to have gone, and this one to fit",
        90_000,
        async () => {
          await rule(denied);
          return ((await isDenied()) && (await isWhole())) || undefined;
        },
        AFTER_GRACE_MS,
      );
      await until(
        "the next one to be in force without it",
        90_000,
        async () => {
          await rig.activate(LearningState.LEARNING);
          return !(await isWhole()) || undefined;
        },
        AFTER_GRACE_MS,
      );
      expect(await isDenied()).toBe(true);
      const count = counted(named("known.example"));
      for (let i = 0; i < 2; i += 1) await look("known.example");
      await look(denied[7] ?? "");
      await reportsOf(named("known.example"), count + 2);
      await rig.audited("a denied name", ({ message }) => message.includes("n7.invalid"));
    },
    300_000,
  );
});

describe("what was let through last, and not told yet", () => {
  let rig: AgentRig;

  beforeAll(async () => {
    if (missing(...CONTAINERS) !== "") return;
    rig = await AgentRig.open("last-hits", LearningState.LEARNING);
    await rig.rules({ network: NETWORK });
  });
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  /** Has a container meet what the model has, this often after it was learned. */
  async function meet(id: string, times: number) {
    const container = rig.sandbox.start(id, WEB);
    await rig.watched(id);
    await container.addAddresses(INTERNAL);
    const port = String(5000 + times);
    const connect = () => container.exec(PROBE, "tcp", INTERNAL, port);
    await connect();
    const learned = await until("the port to be learned", 10_000, () =>
      rig.facts().find(({ kind }) => kind.case === "outbound" && String(kind.value.port) === port),
    );
    await rig.activate(LearningState.LEARNING);
    const { cgroup } = await rig.watched(id);
    const passed = () =>
      rig.agent.stats?.rows.find((row) => row.cgroupId === cgroup.id && row.section === Section.NETWORK)?.allowed ?? 0n;
    for (let i = 0; i < times; i += 1) await connect();
    await until("the kernel to say that it passed them", 10_000, () => passed() === BigInt(times) || undefined);
    return { container, counted: () => countedIn(rig, learned) };
  }

  onKernel("is counted when a container ends", async () => {
    const { container, counted } = await meet("brief", 3);
    expect(counted()).toBeLessThan(2);
    await container[Symbol.asyncDispose]();
    await until("the last counts", 10_000, () => counted() >= 4 || undefined);
    expect(counted()).toBe(4);
  });

  onKernel("is counted when the agent ends", async () => {
    const { counted } = await meet("lasting", 5);
    await rig.agent[Symbol.asyncDispose]();
    expect(counted()).toBe(6);
  });
});
