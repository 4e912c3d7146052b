import { create } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DEFAULT_DETECTORS } from "#core/detect/settings.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { FactSchema, LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Delivery, Effect, Outcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { until } from "../tools/demo/until.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";
import type { SandboxContainer } from "../tools/sandbox/runc.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const IDLE = ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"];
const PROBE = "/opt/netprobe";
const RESOLVER = "10.0.0.53";
const RESOLVER6 = "fd00::53";
/** One that the container was not given. */
const FOREIGN = "10.0.0.99";
const ANSWER = "203.0.113.5";
const TYPE = { A: "1", NULL: "10", TXT: "16", AAAA: "28" } as const;

describe("what a container looks up", () => {
  let rig: AgentRig;
  let web: SandboxContainer;
  const probe = async (...args: string[]) => (await web.exec(PROBE, ...args)).output.trim();
  const ask = (name: string, type: keyof typeof TYPE = "A", how = "udp", resolver = RESOLVER) =>
    probe("dns", how, resolver, name, TYPE[type]);
  const domains = () => rig.facts().flatMap(({ kind }) => (kind.case === "domain" ? [kind.value] : []));
  const audited = (text: string) => rig.audited(text, (a) => a.section === Section.DNS && a.message.includes(text));

  beforeAll(async () => {
    if (missing(...CONTAINERS) !== "") return;
    rig = await AgentRig.open("dns", LearningState.LEARNING);
    await rig.rules({ network: { effect: Effect.ALERT }, dns: { effect: Effect.ALERT } });
    web = rig.sandbox.start("web", {
      args: IDLE,
      programs: ["/bin/sh", "/bin/sleep"],
      files: {
        [PROBE]: { content: testProgram("netprobe"), mode: 0o755 },
        "/etc/resolv.conf": { content: `nameserver ${RESOLVER}\nnameserver ${RESOLVER6}\n`, mode: 0o644 },
      },
    });
    await rig.watched("web");
    await web.addAddresses(RESOLVER, RESOLVER6, FOREIGN, ANSWER, "198.51.100.7");
    for (const address of [RESOLVER, RESOLVER6, FOREIGN]) void web.exec(PROBE, "dns-serve", address, ANSWER);
    await until("the resolver", 5_000, async () => ((await ask("ready.example")) === "ok" ? true : undefined));
    await until("the other resolver", 5_000, async () =>
      (await ask("ready.example", "A", "udp", RESOLVER6)) === "ok" ? true : undefined,
    );
  });
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  onKernel("names are learned in lower case with their type, over IPv4 and IPv6", async () => {
    const longest = `${"a".repeat(63)}.${"b".repeat(63)}.${"c".repeat(63)}.${"d".repeat(57)}.ex`;
    expect(longest).toHaveLength(252);
    expect(await ask("WwW.ExAmPlE.com")).toBe("ok");
    expect(await ask("www.example.com", "TXT")).toBe("ok");
    expect(await ask("six.example.com", "AAAA", "udp", RESOLVER6)).toBe("ok");
    await ask(longest);
    const wanted = ["1 www.example.com", "16 www.example.com", "28 six.example.com", `1 ${longest}`];
    const seen = () => domains().map(({ name, recordType }) => `${recordType} ${name}`);
    await until("all four", 5_000, () => wanted.every((each) => seen().includes(each)) || undefined);
  });

  onKernel(
    "a connection carries the name that its address was answered with; one without a look-up says so",
    async () => {
      await ask("api.example.org");
      await probe("tcp", ANSWER, "443");
      await probe("tcp", "198.51.100.7", "443");
      const outbound = () => rig.facts().flatMap(({ kind }) => (kind.case === "outbound" ? [kind.value] : []));
      // The one that was not looked up is a fact of its own, with its address.
      await until("the direct one", 5_000, () => outbound().find(({ address }) => address === "198.51.100.7"));
      expect(outbound().some(({ address }) => address === ANSWER)).toBe(false);
      await rig.activate(LearningState.ACTIVE);
      await probe("tcp", ANSWER, "9443");
      const audit = await rig.audited("port 9443", (a) => a.message.includes("9443"));
      expect(audit.event?.kind).toMatchObject({
        value: { domain: "api.example.org", isDirect: false, isInternet: true },
      });
    },
  );

  onKernel("known names are only counted; unknown ones and other types raise an audit", async () => {
    await ask("www.example.com");
    await ask("new.example.com");
    await ask("www.example.com", "AAAA");
    expect((await audited("new.example.com")).decision).toMatchObject({ outcome: Outcome.DEVIATION });
    await audited("`www.example.com` (AAAA)");
    expect(rig.audits.some((a) => a.message.includes("`www.example.com` (A)"))).toBe(false);
    const audit = await audited("new.example.com");
    expect(audit.event?.actor?.path).toBe(PROBE);
    expect(audit.event?.kind).toMatchObject({ value: { resolver: Buffer.from([10, 0, 0, 53]) } });
  });

  onKernel("under prevent an unknown name never leaves: EPERM over UDP, no answer over TCP", async () => {
    await rig.rules({
      network: { effect: Effect.ALERT },
      dns: { effect: Effect.PREVENT, allowed: ["*.good.example"], denied: ["*.evil.example", "www.example.com"] },
    });
    expect(await ask("else.where")).toBe("EPERM");
    expect(await ask("a.b.good.example")).toBe("ok");
    expect(await ask("good.example")).toBe("EPERM");
    expect(await ask("x.EVIL.example")).toBe("EPERM");
    expect(await ask("www.example.com")).toBe("EPERM");
    expect(await ask("six.example.com", "AAAA", "udp", RESOLVER6)).toBe("ok");
    expect(await ask("tcp.example", "A", "tcp")).not.toBe("ok");
    void web.exec(PROBE, "serve", RESOLVER, "53", "60");
    await until("who takes it", 5_000, async () => (await probe("tcp", RESOLVER, "53")) === "ok" || undefined);
    expect(await ask("second.example", "A", "tcp-second")).not.toBe("ok");
    expect((await audited("else.where")).delivery).toBe(Delivery.DENIED);
    // A socket that is connected elsewhere may send its datagram to a resolver all the same.
    expect(await ask("aside.example", "A", "udp-aside")).toBe("EPERM");
    // So may one send that the kernel makes several datagrams of.
    expect(await ask("first.good.example", "A", "udp-second")).toBe("ok");
    expect(await ask("split.example", "A", "udp-second")).toBe("EPERM");
    expect((await audited("split.example")).delivery).toBe(Delivery.DENIED);
    expect(await ask("behind.example", "A", "tcp-behind")).not.toBe("ok");
    expect((await audited("behind.example")).delivery).toBe(Delivery.DENIED);
    expect((await audited("second.example")).delivery).toBe(Delivery.DENIED);
    expect((await audited("x.evil.example")).decision).toMatchObject({
      outcome: Outcome.DENIAL,
      explanation: { matched: "*.evil.example" },
    });
  });

  onKernel(
    "over TCP as over UDP, and with an additional record: what is allowed is answered, the rest never leaves",
    async () => {
      const over = "10.0.0.54";
      await web.addAddresses(over, "198.51.100.9");
      void web.exec(PROBE, "dns-serve-tcp", over, "198.51.100.9");
      await until(
        "the resolver",
        5_000,
        async () => (await ask("r.good.example", "A", "tcp", over)) === "ok" || undefined,
      );
      expect(await ask("answered.good.example", "A", "tcp", over)).toBe("ok");
      expect(await ask("unanswered.example", "A", "tcp", over)).not.toBe("ok");
      expect((await audited("unanswered.example")).delivery).toBe(Delivery.DENIED);
      // What such an answer says is known of the connection that follows.
      await probe("tcp", "198.51.100.9", "9445");
      const audit = await rig.audited("port 9445", (a) => a.message.includes("9445"));
      expect(audit.event?.kind).toMatchObject({ value: { domain: "answered.good.example", isDirect: false } });
      // All of it over IPv6, with an IPv6 address for an answer.
      void web.exec(PROBE, "dns-serve-tcp", RESOLVER6, "198.51.100.9");
      const six = (name: string) => ask(name, "AAAA", "tcp", RESOLVER6);
      await until("the resolver", 5_000, async () => (await six("ready.good.example")) === "ok" || undefined);
      expect(await six("six.good.example")).toBe("ok");
      expect(await six("six.evil.example")).not.toBe("ok");
      expect((await audited("six.evil.example")).delivery).toBe(Delivery.DENIED);
      await web.addAddresses("2001:db8::77");
      await probe("tcp", "2001:db8::77", "9446");
      const over6 = await rig.audited("port 9446", (a) => a.message.includes("9446"));
      expect(over6.event?.kind).toMatchObject({ value: { domain: "six.good.example", isDirect: false } });
      expect(await ask("edns.good.example", "A", "udp-edns")).toBe("ok");
      expect(await ask("edns.evil.example", "A", "udp-edns")).toBe("EPERM");
      expect((await audited("edns.evil.example")).event?.kind).toMatchObject({ value: { isMalformed: false } });
    },
  );

  onKernel("what is no well-formed question is dropped under prevent, and told", async () => {
    for (const how of ["twice", "pointer", "cut", "answer"])
      expect(await ask("six.example.com", "AAAA", how), how).toBe("EPERM");
    const audit = await audited("no well-formed question");
    expect(audit.event?.kind).toMatchObject({ case: "dnsQuery", value: { isMalformed: true } });
  });

  test.skipIf(missing(...CONTAINERS, "iptables") !== "")(
    "a look-up whose packets are rewritten on their way, as Docker does it, is the one that was made",
    async () => {
      // Docker's resolver: 127.0.0.11 port 53 is turned into a port that it chose, before the packet leaves.
      const table = (...args: string[]) => web.runFromHost("iptables", "-t", "nat", ...args);
      const [own, hidden] = ["127.0.0.11", "127.0.0.11:40053"];
      await table("-A", "OUTPUT", "-d", own, "-p", "udp", "--dport", "53", "-j", "DNAT", "--to-destination", hidden);
      await table("-A", "POSTROUTING", "-s", own, "-p", "udp", "--sport", "40053", "-j", "SNAT", "--to-source", ":53");
      void web.exec(PROBE, "dns-serve", own, ANSWER, "40053");
      await until("the hidden resolver", 10_000, async () =>
        (await ask("rewritten.good.example", "A", "udp", own)) === "ok" ? true : undefined,
      );
      expect(await ask("rewritten.evil.example", "A", "udp", own)).toBe("EPERM");
      const audit = await audited("rewritten.evil.example");
      expect(audit).toMatchObject({ delivery: Delivery.DENIED });
      expect(audit.event?.kind).toMatchObject({ value: { resolver: Buffer.from([127, 0, 0, 11]) } });
      expect(audit.event?.actor?.path).toBe(PROBE);
      // Neither who knows the port that it really has, nor who sends elsewhere in between, gets past.
      const direct = (name: string, how: string) => probe("dns", how, own, name, TYPE.A, "40053");
      expect(await direct("direct.good.example", "udp")).toBe("ok");
      expect(await direct("direct.evil.example", "udp")).toBe("EPERM");
      void web.exec(PROBE, "serve", own, "40053", "60");
      await until("who takes it", 5_000, async () => (await probe("tcp", own, "40053")) === "ok" || undefined);
      await direct("stream.evil.example", "tcp");
      await audited("stream.evil.example");
      expect(await ask("between.evil.example", "A", "udp-between", own)).toBe("EPERM");
    },
  );

  onKernel("tunnels and floods of names that do not exist are found", async () => {
    await rig.rules({ dns: { effect: Effect.ALERT, detectors: { dns_tunnel: {}, dns_flood: {} } } });
    const loop = (command: string) => web.exec("/bin/sh", "-c", command);
    await loop(
      `i=0; while [ $i -lt 60 ]; do ${PROBE} dns udp ${RESOLVER} $i-xxxxxxxxxxxxxxxxxxxxxxxx.tunnel.example 16; i=$((i+1)); done`,
    );
    expect(await audited("as tunnels do")).toMatchObject({ decision: { detector: "dns_tunnel" } });
    await ask("data.other.example", "NULL");
    await audited("record type 10");
    await loop(`i=0; while [ $i -lt 12 ]; do ${PROBE} dns udp ${RESOLVER} no$i.example$i.test 1; i=$((i+1)); done`);
    expect(await audited("do not exist")).toMatchObject({ decision: { detector: "dns_flood" } });
    // What the model knows may be missing as often as it likes.
    const known = Array.from({ length: 12 }, (_, i) =>
      create(FactSchema, { kind: { case: "domain", value: { name: `no${i}.known${i}.test`, recordType: 1 } } }),
    );
    const floods = () => rig.audits.filter((a) => a.decision?.detector === "dns_flood").length;
    const before = floods();
    const learned = rig.facts();
    await rig.activate(LearningState.ACTIVE, [...learned, ...known]);
    await loop(`i=0; while [ $i -lt 12 ]; do ${PROBE} dns udp ${RESOLVER} no$i.known$i.test 1; i=$((i+1)); done`);
    await ask("after.missing.example");
    await audited("after.missing.example");
    expect(floods()).toBe(before);
    await rig.activate(LearningState.ACTIVE, learned);
    // A list that allows the names does not silence the detector.
    await rig.rules({ dns: { effect: Effect.PREVENT, allowed: ["*.listed.example"], detectors: { dns_tunnel: {} } } });
    await loop(
      `i=0; while [ $i -lt 60 ]; do ${PROBE} dns udp ${RESOLVER} $i-xxxxxxxxxxxxxxxxxxxxxxxx.listed.example 1; i=$((i+1)); done`,
    );
    expect(await audited("below `listed.example`")).toMatchObject({ decision: { detector: "dns_tunnel" } });
  });

  onKernel("a resolver over TLS is told, even where its port is known", async () => {
    await rig.rules({
      network: { effect: Effect.ALERT },
      dns: { effect: Effect.ALERT, detectors: { encrypted_dns: {} } },
    });
    await web.addAddresses("1.1.1.1");
    await probe("tcp", "1.1.1.1", "443");
    expect(await audited("1.1.1.1")).toMatchObject({ decision: { detector: "encrypted_dns" } });
  });

  onKernel(
    "only who was given as a resolver before the container began, or is excepted, may be asked for names",
    async () => {
      const rule = (effect: Effect, exceptions: string[] = []) =>
        rig.rules({ dns: { effect: Effect.ALERT, detectors: { foreign_resolver: { effect, exceptions } } } });
      await rule(Effect.PREVENT);
      await web.exec("/bin/sh", "-c", `echo nameserver ${FOREIGN} > /etc/resolv.conf`);
      for (const how of ["udp", "udp-aside", "tcp"])
        expect(await ask("known.example", "A", how, FOREIGN)).toBe("EPERM");
      expect(await ask("known.example")).toBe("ok");
      expect(await ask("known.example", "A", "udp", RESOLVER6)).toBe("ok");
      expect(await audited(FOREIGN)).toMatchObject({
        decision: { detector: "foreign_resolver", effectApplied: Effect.PREVENT },
        delivery: Delivery.DENIED,
        message: `\`${FOREIGN}\` was asked for names, and the container was given \`${RESOLVER}\`, \`${RESOLVER6}\` for that`,
      });
      await rule(Effect.PREVENT, ["10.0.0.96/29"]);
      expect(await ask("known.example", "A", "udp", FOREIGN)).toBe("ok");
      // Somebody who learns is not stopped by what is no threat.
      await rig.activate(LearningState.LEARNING);
      await rule(Effect.BLOCK);
      expect(await ask("known.example", "A", "udp", FOREIGN)).toBe("ok");
      await rig.activate(LearningState.ACTIVE);
    },
  );

  onKernel("a resolver may answer who asked it from a resolver's port, and nobody can have it stopped so", async () => {
    const detectors = { foreign_resolver: { effect: Effect.BLOCK } };
    for (const network of [undefined, { effect: Effect.ALERT }]) {
      await rig.rules({ dns: { effect: Effect.ALERT, detectors }, ...(network ? { network } : {}) });
      expect(await ask("www.example.com", "A", `udp-from-${ANSWER}`)).toBe("ok");
    }
    expect(await web.isRunning()).toBe(true);
  });

  onKernel(
    "what is refused for a custom rule's sake is said of that, and of the detector only where it asks for it",
    async () => {
      const both = async (effect: Effect) => {
        const from = rig.audits.length;
        await rig.rules({
          network: { effect: Effect.ALERT },
          dns: { effect: Effect.ALERT, detectors: { foreign_resolver: { effect } } },
          customRules: [{ name: "no", expression: `event.connect.reaches("${FOREIGN}")`, effect: Effect.PREVENT }],
        });
        expect(await ask("www.example.com", "A", "udp", FOREIGN)).toBe("EPERM");
        // Of what came before, only another count may come yet.
        const of = (section: Section, effectAsked: Effect) =>
          rig.audited(`section ${section}`, (a) => {
            const isLater = rig.audits.indexOf(a) >= from;
            return isLater && a.section === section && a.decision?.effectAsked === effectAsked;
          });
        const audits = await Promise.all([of(Section.NETWORK, Effect.PREVENT), of(Section.DNS, effect)]);
        return audits.map(({ delivery }) => delivery);
      };
      expect(await both(Effect.ALERT)).toEqual([Delivery.DENIED, Delivery.AUDITED]);
      expect(await both(Effect.PREVENT)).toEqual([Delivery.DENIED, Delivery.DENIED]);
    },
  );

  onKernel("disabled, look-ups are neither learned nor analysed", async () => {
    await rig.rules({ network: { effect: Effect.ALERT }, dns: { effect: Effect.DISABLE, denied: ["*.evil.example"] } });
    const before = rig.audits.length;
    expect(await ask("y.evil.example")).toBe("ok");
    await rig.agent.containers.byId("web")?.events.idle();
    expect(rig.audits.slice(before).filter((a) => a.section === Section.DNS)).toEqual([]);
  });

  onKernel("block drops the look-up and stops the container", async () => {
    // Not in the one above: what it was refused over TCP the kernel sends again now and then, and that stops it.
    const fresh = rig.sandbox.start("fresh", {
      args: IDLE,
      programs: ["/bin/sh", "/bin/sleep"],
      files: { [PROBE]: { content: testProgram("netprobe"), mode: 0o755 } },
    });
    await rig.watched("fresh");
    await fresh.addAddresses(RESOLVER);
    await rig.rules({ dns: { effect: Effect.BLOCK, denied: ["*.evil.example"] } });
    await fresh.exec(PROBE, "dns", "udp", RESOLVER, "z.evil.example", TYPE.A);
    const audit = await audited("z.evil.example");
    expect(audit).toMatchObject({ delivery: Delivery.DENIED });
    expect(audit.deliveryNote).toMatch(/^the query was dropped; container stopped/);
    expect((await fresh.ended).status).toBe(137);
  });
});

onKernel("a tunnel that takes its time is found by what it carries in an hour", async () => {
  // Never as many within the shorter time as would be found then: a fifth of a second instead of a minute.
  const detectors = { ...DEFAULT_DETECTORS, dns: { ...DEFAULT_DETECTORS.dns, windowMs: 200 } };
  await using rig = await AgentRig.open("slow", LearningState.LEARNING, { detectors });
  await rig.rules({ dns: { effect: Effect.ALERT, detectors: { dns_tunnel: {} } } });
  const web = rig.sandbox.start("web", {
    args: IDLE,
    programs: ["/bin/sh", "/bin/sleep"],
    files: { [PROBE]: { content: testProgram("netprobe"), mode: 0o755 } },
  });
  await rig.watched("web");
  await web.addAddresses(RESOLVER);
  void web.exec(PROBE, "dns-serve", RESOLVER, ANSWER);
  const many = (end: string) =>
    web.exec(
      "/bin/sh",
      "-c",
      `i=100; while [ $i -lt 200 ]; do ${PROBE} dns udp ${RESOLVER} $i${end} 1; /bin/sleep 0.02; i=$((i+1)); done`,
    );
  // As many names of a search path, which carry nothing.
  await many(".www.example.com.corp.example");
  await many(`-${"x".repeat(50)}.${"y".repeat(50)}.slow.test`);
  const audit = await rig.audited("the tunnel", (a) => a.decision?.detector === "dns_tunnel");
  expect(audit.message).toMatch(
    /^\d+ distinct names with 5\d\d\d bytes were looked up below `slow.test` within 60 minutes/,
  );
});
