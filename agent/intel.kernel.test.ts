import { create } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Section, Transport } from "#gen/gabion/event/v1/event_pb.ts";
import { type Fact, FactSchema, LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Delivery, Effect, Outcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { until } from "../tools/demo/until.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";
import type { SandboxContainer } from "../tools/sandbox/runc.ts";
import { GRACE_MS } from "./enforce/slot-table.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const PROBE = "/opt/netprobe";
const RESOLVER = "10.0.0.53";
const BAD = "203.0.113.5";
const EXCEPTED = "203.0.113.7";
const PLAIN = "198.51.100.7";
/** As many as the kernel has room for, of what is looked up by its hash. */
const ENTRIES = 262_144;
/** Each try leaves a version behind, which has to go before the next one. */
const AFTER_GRACE_MS = GRACE_MS + 1_000;
/** Of each kind: with both a node has the 20,000 that it takes. */
const MANY = 9_990;

const domain = (name: string, isPattern = false): Fact =>
  create(FactSchema, { kind: { case: "domain", value: { name, recordType: 1, isPattern } } });

describe("addresses and domains that intelligence lists", () => {
  let rig: AgentRig;
  let web: SandboxContainer;
  const probe = async (...args: string[]) => (await web.exec(PROBE, ...args)).output.trim();
  const ask = (name: string) => probe("dns", "udp", RESOLVER, name, "1");
  const audited = (text: string) => rig.audited(text, (a) => a.message.includes(text));
  const rules = (effect: Effect, allowed: string[] = []) =>
    rig.rules({
      process: { effect: Effect.ALERT },
      network: { effect: Effect.ALERT, allowed: { outboundAddresses: allowed }, detectors: { intel: { effect } } },
      dns: {
        effect: Effect.ALERT,
        allowed: allowed.length > 0 ? ["c2.bad.example"] : [],
        detectors: { intel: { effect } },
      },
    });
  const facts = [
    create(FactSchema, { kind: { case: "listen", value: { transport: Transport.UDP, port: 5300 } } }),
    create(FactSchema, { kind: { case: "outbound", value: { transport: Transport.TCP, port: 443 } } }),
    ...["c2.bad.example", "good.bad.example", "plain.example", "ready.example"].map((name) => domain(name)),
    domain("shard-?.pool.example.net", true),
  ];

  beforeAll(async () => {
    if (missing(...CONTAINERS) !== "") return;
    rig = await AgentRig.open("intel", LearningState.ACTIVE);
    rig.changeModel(LearningState.ACTIVE, facts);
    await rules(Effect.ALERT);
    web = rig.sandbox.start("web", {
      args: ["/bin/sh", "-c", "while true; do /bin/sleep 60; done"],
      programs: ["/bin/sh", "/bin/sleep"],
      files: { [PROBE]: { content: testProgram("netprobe"), mode: 0o755 } },
    });
    await rig.watched("web");
    await web.addAddresses(RESOLVER, BAD, EXCEPTED, PLAIN);
    void web.exec(PROBE, "dns-serve", RESOLVER, PLAIN);
    await until("the resolver", 5_000, async () => ((await ask("ready.example")) === "ok" ? true : undefined));
    const listed = { feed: "own", description: "a test" };
    await rig.intel({
      domains: [
        { ...listed, value: "bad.example" },
        { ...listed, value: "good.bad.example", isException: true },
      ],
      prefixes: [
        { ...listed, value: "203.0.113.0/24" },
        { ...listed, value: `${EXCEPTED}/32`, isException: true },
      ],
    });
  });
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  onKernel("are told though the model knows port and name; what is excepted is not", async () => {
    expect(await ask("c2.bad.example")).toBe("ok");
    expect(await ask("good.bad.example")).toBe("ok");
    expect(await probe("tcp", BAD, "443")).toBe("ECONNREFUSED");
    expect(await probe("tcp", EXCEPTED, "443")).toBe("ECONNREFUSED");
    const name = await audited("`c2.bad.example` (A): it is below the bad domain `bad.example`, listed by own: a test");
    expect(name).toMatchObject({ section: Section.DNS, delivery: Delivery.AUDITED });
    expect(name.decision).toMatchObject({ outcome: Outcome.DETECTION, detector: "intel" });
    const address = await audited(`\`${BAD}\` tcp/443 is within the bad addresses \`203.0.113.0/24\``);
    expect(address).toMatchObject({ section: Section.NETWORK, delivery: Delivery.AUDITED });
    expect(rig.audits.filter(({ message }) => message.includes("good.bad") && message.includes("bad domain"))).toEqual(
      [],
    );
  });

  onKernel("under prevent are refused, and what is excepted within is not", async () => {
    await rules(Effect.PREVENT);
    rig.audits.length = 0;
    expect(await ask("good.bad.example")).toBe("ok");
    expect(await probe("tcp", EXCEPTED, "443")).toBe("ECONNREFUSED");
    expect(await ask("c2.bad.example")).toBe("EPERM");
    expect(await probe("tcp", BAD, "443")).toBe("EPERM");
    // Nor may a server answer to such an address, though it may answer everybody else.
    expect(await probe("udp-from", "5300", BAD, "40000")).toBe("EPERM");
    expect(await probe("udp-from", "5300", PLAIN, "40000")).toBe("ok");
    for (const text of ["`c2.bad.example`", `\`${BAD}\` tcp/443 is within the bad addresses`]) {
      const told = await audited(text);
      expect([told.delivery, told.decision?.effectApplied]).toEqual([Delivery.DENIED, Effect.PREVENT]);
    }
  });

  onKernel("are refused as surely where there are as many as a node takes", async () => {
    const others = Array.from({ length: MANY }, (_, i) => i);
    await rig.intel({
      domains: [...others.map((i) => `host-${i}.example.org`), "bad.example"].map((value) => ({ value, feed: "many" })),
      prefixes: [...others.map((i) => `192.0.${i >> 8}.${i & 255}`), "203.0.113.0/24"].map((value) => ({
        value,
        feed: "many",
      })),
    });
    rig.audits.length = 0;
    expect(await ask("c2.bad.example")).toBe("EPERM");
    expect(await probe("tcp", BAD, "443")).toBe("EPERM");
    expect(await ask("plain.example")).toBe("ok");
    expect(await probe("tcp", PLAIN, "443")).toBe("ECONNREFUSED");
    expect((await audited(`\`${BAD}\` tcp/443`)).message).toContain("listed by many");
    expect((await audited("`c2.bad.example`")).delivery).toBe(Delivery.DENIED);
  });

  onKernel(
    "are told where the kernel has no room for them",
    async () => {
      const intel = { effect: Effect.PREVENT };
      // Two versions of the rule fit, and nothing besides.
      const denied = Array.from({ length: ENTRIES / 2 - 100 }, (_, i) => `n${i}.invalid`);
      await rig.intel({});
      await until(
        "the rule to fit",
        90_000,
        async () => {
          await rig.rules({
            process: { effect: Effect.ALERT },
            network: { effect: Effect.PREVENT, detectors: { intel } },
            dns: { effect: Effect.PREVENT, denied, detectors: { intel } },
          });
          return ((await rig.watched("web")).use?.entries.length ?? 0) > denied.length || undefined;
        },
        AFTER_GRACE_MS,
      );
      rig.audits.length = 0;
      const many = Array.from({ length: MANY }, (_, i) => ({ value: `host-${i}.example.net`, feed: "full" }));
      await until(
        "the version before to have gone",
        90_000,
        async () => {
          await rig.intel({
            domains: [...many, { value: "bad.example", feed: "full" }],
            prefixes: [{ value: "203.0.113.0/24", feed: "full" }],
          });
          return (
            ((await ask("c3.bad.example")) === "ok" && (await probe("tcp", BAD, "444")) === "ECONNREFUSED") || undefined
          );
        },
        AFTER_GRACE_MS,
      );
      for (const text of ["`c3.bad.example`", `\`${BAD}\` tcp/444 is within the bad addresses`]) {
        await rig.audited(text, (a) => a.message.includes(text) && a.delivery === Delivery.NOT_POSSIBLE);
      }
      expect(await ask("n7.invalid")).toBe("EPERM");
      // And refused again once there is.
      await rules(Effect.PREVENT);
      await until(
        "room for them",
        90_000,
        async () => {
          await rules(Effect.PREVENT);
          return (await ask("c3.bad.example")) === "EPERM" || undefined;
        },
        AFTER_GRACE_MS,
      );
      expect(await probe("tcp", BAD, "444")).toBe("EPERM");
    },
    300_000,
  );

  onKernel(
    "without exceptions the look-up never leaves and the connect fails; the allowed list corrects both",
    async () => {
      await rig.intel({
        domains: [{ value: "bad.example", feed: "own" }],
        prefixes: [{ value: "203.0.113.0/24", feed: "own" }],
      });
      rig.audits.length = 0;
      expect(await probe("tcp", BAD, "443")).toBe("EPERM");
      expect(await ask("c2.bad.example")).toBe("EPERM");
      expect(await ask("plain.example")).toBe("ok");
      expect((await audited(`\`${BAD}\` tcp/443`)).delivery).toBe(Delivery.DENIED);
      expect((await audited("`c2.bad.example`")).delivery).toBe(Delivery.DENIED);
      await rules(Effect.PREVENT, [BAD]);
      rig.audits.length = 0;
      expect(await probe("tcp", BAD, "443")).toBe("ECONNREFUSED");
      expect(await ask("c2.bad.example")).toBe("ok");
      await ask("other.bad.example");
      await audited("`other.bad.example`");
      expect(rig.audits.filter(({ message }) => message.includes(BAD) || message.includes("`c2."))).toEqual([]);
    },
  );

  onKernel(
    "a name that a family covers passes where the section prevents, one that nothing names does not",
    async () => {
      await rig.rules({
        process: { effect: Effect.ALERT },
        dns: { effect: Effect.PREVENT, detectors: { encrypted_dns: {} } },
      });
      expect(await ask("shard-17.pool.example.net")).toBe("ok");
      expect(await ask("unknown.example.org")).toBe("EPERM");
      expect(await ask("dns.google")).toBe("EPERM");
    },
  );
});
