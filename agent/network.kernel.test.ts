import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { addressText } from "#core/matching/address.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Delivery, Effect, Outcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { until } from "../tools/demo/until.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";
import type { SandboxContainer } from "../tools/sandbox/runc.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const IDLE = ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"];
const PROGRAMS = ["/bin/sh", "/bin/sleep"];
const PROBE = "/opt/netprobe";
const CALLS = "/opt/callprobe";
/** Addresses for documentation (RFC 5737, RFC 3849): the Internet, as far as anybody can tell. */
const HOST = "203.0.113.5";
const OTHER = "198.51.100.7";
const HOST6 = "2001:db8::5";
const INTERNAL = "10.1.2.3";

const probeFile = () => ({ [PROBE]: { content: testProgram("netprobe"), mode: 0o755 } });

/** What the kubelet tells each pod of the API server. */
const API_SERVER = "10.96.0.1";

async function start(rig: AgentRig, id: string): Promise<SandboxContainer> {
  const container = rig.sandbox.start(id, {
    args: IDLE,
    programs: PROGRAMS,
    capabilities: ["CAP_NET_RAW"],
    files: { ...probeFile(), [CALLS]: { content: testProgram("callprobe"), mode: 0o755 } },
    env: [`KUBERNETES_SERVICE_HOST=${API_SERVER}`],
  });
  await rig.watched(id);
  await container.addAddresses(HOST, OTHER, HOST6, INTERNAL, "10.0.0.53", "192.0.2.9", API_SERVER);
  return container;
}

describe("what a container does with the network", () => {
  let rig: AgentRig;
  let web: SandboxContainer;
  const probe = async (...args: string[]) => (await web.exec(PROBE, ...args)).output.trim();
  const outbound = () => rig.facts().flatMap(({ kind }) => (kind.case === "outbound" ? [kind.value] : []));
  const listening = () => rig.facts().flatMap(({ kind }) => (kind.case === "listen" ? [kind.value] : []));

  beforeAll(async () => {
    if (missing(...CONTAINERS) !== "") return;
    rig = await AgentRig.open("net", LearningState.LEARNING);
    await rig.rules({
      process: { effect: Effect.ALERT },
      network: { effect: Effect.ALERT, detectors: { raw_socket: {}, port_scan: {} } },
    });
    web = await start(rig, "web");
  });
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  onKernel("ports of the Internet are learned, TCP and UDP, IPv4 and IPv6", async () => {
    expect(await probe("tcp", HOST, "443")).toBe("ECONNREFUSED");
    expect(await probe("udp", HOST, "123")).toBe("ok");
    expect(await probe("tcp", HOST6, "8443")).toBe("ECONNREFUSED");
    expect(await probe("fastopen", HOST, "81")).toMatch(/ECONNREFUSED|EINPROGRESS|ok/);
    await until("four ports", 5_000, () => (outbound().length >= 4 ? true : undefined));
    expect(outbound().map(({ transport, port, address }) => [transport, port, address])).toEqual([
      [1, 443, ""],
      [2, 123, ""],
      [1, 8443, ""],
      [1, 81, ""],
    ]);
  });

  onKernel("a destination that is not the Internet is learned with its address, loopback not at all", async () => {
    await probe("tcp", INTERNAL, "5432");
    await probe("tcp", "127.0.0.1", "9");
    await probe("tcp", "::1", "9");
    const found = await until("the internal one", 5_000, () => outbound().find(({ port }) => port === 5432));
    expect(found.address).toBe(INTERNAL);
    expect(outbound().some(({ port }) => port === 9)).toBe(false);
    // A range that a setting names as the cluster's own is none of the Internet's either.
    await probe("tcp", "192.0.2.9", "6000");
    const own = await until("the cluster's", 5_000, () => outbound().find(({ port }) => port === 6000));
    expect(own.address).toBe("192.0.2.9");
  });

  onKernel("listening ports are learned, those that the kernel chose as one class", async () => {
    expect(await probe("listen", "0.0.0.0", "8080", "0")).toBe("ok");
    expect(await probe("listen", "::", "8081", "0")).toBe("ok");
    expect(await probe("bind-udp", "0.0.0.0", "5353", "0")).toBe("ok");
    expect(await probe("listen-unbound", "0.0.0.0", "0", "0")).toBe("ok");
    expect(await probe("listen", "0.0.0.0", "0", "0")).toBe("ok");
    // A port that the kernel chose for datagrams is a client's; one of the same range that somebody chose is not.
    expect(await probe("bind-udp", "0.0.0.0", "0", "0")).toBe("ok");
    expect(await probe("bind-udp", "::", "41000", "0")).toBe("ok");
    await until("five ports", 5_000, () => (listening().length >= 5 ? true : undefined));
    expect(listening().map(({ transport, port }) => [transport, port])).toEqual([
      [1, 8080],
      [1, 8081],
      [2, 5353],
      [1, 0],
      [2, 0],
    ]);
  });

  onKernel("once active, what is known is only counted in the kernel, and what is not raises an audit", async () => {
    await rig.activate(LearningState.ACTIVE);
    const container = await rig.watched("web");
    const row = () =>
      rig.agent.stats?.rows.find((r) => r.cgroupId === container.cgroup.id && r.section === Section.NETWORK);
    // Counters come once a second: the first that know of this one know of all before it.
    const allowed = (await until("counters", 5_000, row)).allowed;
    await probe("tcp", OTHER, "443");
    const before = await until("one more", 5_000, () => {
      const now = row();
      return now && now.allowed > allowed ? now : undefined;
    });
    for (let i = 0; i < 5; i += 1) await probe("tcp", OTHER, "443");
    await probe("listen", "0.0.0.0", "8080", "0");
    const after = await until("six more", 5_000, () => {
      const now = row();
      return now && now.allowed >= before.allowed + 6n ? now : undefined;
    });
    // Each refused connection is a failed contact besides, told for port scans.
    expect(after.emitted).toBe(before.emitted);
    expect(rig.audits.filter((a) => a.section === Section.NETWORK)).toEqual([]);
    await web.exec("/bin/sh", "-c", `${PROBE} tcp ${OTHER} 4444; /bin/sleep 0.3; true`);
    const audit = await rig.audited("port 4444", (a) => a.message.includes("4444"));
    expect(audit).toMatchObject({ section: Section.NETWORK, delivery: Delivery.AUDITED });
    expect(audit.decision).toMatchObject({ outcome: Outcome.DEVIATION });
    expect(audit.event?.actor).toMatchObject({ path: PROBE });
    expect(audit.event?.ancestors[0]).toMatchObject({ path: "/bin/sh" });
    expect(audit.decision?.explanation?.nearest.length).toBeGreaterThan(0);
  });

  onKernel("under prevent an unknown port fails with EPERM, and everything known goes on", async () => {
    await rig.rules({ network: { effect: Effect.PREVENT, detectors: { raw_socket: {} } } });
    expect(await probe("tcp", HOST, "4445")).toBe("EPERM");
    expect(await probe("udp", HOST, "4446")).toBe("EPERM");
    expect(await probe("udp-connect", HOST6, "4447")).toBe("EPERM");
    expect(await probe("tcp", HOST, "443")).toBe("ECONNREFUSED");
    expect(await probe("tcp", INTERNAL, "1")).toBe("ECONNREFUSED");
    const audit = await rig.audited("port 4445", (a) => a.message.includes("4445"));
    expect(audit).toMatchObject({ delivery: Delivery.DENIED, deliveryNote: "the connect failed with EPERM" });
    expect(await rig.audited("port 4446", (a) => a.message.includes("4446"))).toMatchObject({
      deliveryNote: "the send failed with EPERM",
    });
  });

  onKernel("TCP of several ways is TCP", async () => {
    const mptcp = (...args: string[]) => probe("by", "mptcp", ...args);
    expect(await mptcp("tcp", HOST, "4450")).toBe("EPERM");
    expect(await mptcp("tcp", HOST6, "4451")).toBe("EPERM");
    expect(await mptcp("fastopen", HOST, "4452")).toBe("EPERM");
    expect(await mptcp("listen", "0.0.0.0", "4453", "0")).toBe("EPERM");
    expect(await mptcp("tcp", HOST, "443")).toBe("ECONNREFUSED");
    await rig.audited("port 4451", (a) => a.message.includes("tcp/4451"));
  });

  onKernel("an unknown listening port is refused at bind; who listens without one dies", async () => {
    expect(await probe("listen", "0.0.0.0", "9999", "0")).toBe("EPERM");
    expect(await probe("bind-udp", "0.0.0.0", "9998", "0")).toBe("EPERM");
    const audit = await rig.audited("port 9999", (a) => a.message.includes("9999"));
    expect(audit).toMatchObject({ delivery: Delivery.DENIED, deliveryNote: "the bind failed with EPERM" });
    expect(await probe("bind-udp", "0.0.0.0", "41001", "0")).toBe("ok");
    await rig.rules({ network: { effect: Effect.ALERT, denied: { listeningPorts: [{ first: 9_191, last: 9_192 }] } } });
    for (const [address, at] of [
      [HOST, 9_191],
      [HOST6, 9_192],
    ] as const) {
      expect(await probe("listen", address, String(at), "0")).toBe("ok");
      await rig.audited(`${address}`, ({ event }) => {
        const kind = event?.kind;
        return kind?.case === "listen" && kind.value.port === at && addressText(kind.value.address) === address;
      });
    }
    await rig.rules({ network: { effect: Effect.PREVENT, detectors: { raw_socket: {} } } });
    // The class of ports that the kernel chooses was learned; without it listening is what cannot be refused.
    await rig.activate(
      LearningState.ACTIVE,
      rig.facts().filter(({ kind }) => !(kind.case === "listen" && kind.value.port === 0)),
    );
    expect((await web.exec(PROBE, "listen-unbound", "0.0.0.0", "0", "0")).status).toBe(137);
    expect(await probe("bind-udp", "0.0.0.0", "41001", "0")).toBe("EPERM");
    expect(await probe("bind-udp", "0.0.0.0", "0", "0")).toBe("ok");
    const killed = await rig.audited("unbound", (a) => a.delivery === Delivery.KILLED);
    expect(killed.deliveryNote).toBe("the process was killed before listen returned");
  });

  onKernel("denied addresses win over everything and apply everywhere, allowed ones over the model", async () => {
    const listed = {
      network: {
        effect: Effect.PREVENT,
        allowed: {
          outboundAddresses: [`${OTHER}/24`, `${INTERNAL}/32`],
          listeningPorts: [{ first: 9000, last: 9100 }],
        },
        denied: {
          outboundAddresses: ["10.1.0.0/16", `${HOST6}/127`],
          outboundPorts: [{ first: 8440, last: 8450 }],
          listeningPorts: [{ first: 9050, last: 9050 }],
        },
      },
    };
    await rig.rules(listed);
    expect(await probe("tcp", INTERNAL, "5432")).toBe("EPERM");
    expect(await probe("tcp", HOST6, "443")).toBe("EPERM");
    expect(await probe("tcp", OTHER, "31337")).toBe("ECONNREFUSED");
    expect(await probe("tcp", OTHER, "8443")).toBe("EPERM");
    // Let through a moment ago, on each processor: a change of the rule is not to be waited for.
    for (let i = 0; i < 8; i += 1) expect(await probe("tcp", OTHER, "31337")).toBe("ECONNREFUSED");
    await rig.rules({ network: { effect: Effect.PREVENT, denied: { outboundAddresses: [`${OTHER}/32`] } } });
    for (let i = 0; i < 8; i += 1) expect(await probe("tcp", OTHER, "31337")).toBe("EPERM");
    await rig.rules(listed);
    expect(await probe("listen", "0.0.0.0", "9049", "0")).toBe("ok");
    expect(await probe("listen", "0.0.0.0", "9050", "0")).toBe("EPERM");
    // An IPv4 address as IPv6 sockets know it is the same one.
    expect(await probe("tcp", `::ffff:${INTERNAL}`, "5433")).toBe("EPERM");
    expect(await probe("udp", `::ffff:${INTERNAL}`, "5433")).toBe("EPERM");
    const audit = await rig.audited("the denied prefix", (a) => a.decision?.explanation?.matched === "10.1.0.0/16");
    expect(audit.decision?.outcome).toBe(Outcome.DENIAL);
  });

  onKernel("raw and packet sockets are refused or their process dies, and who opened them is told", async () => {
    await rig.rules({ network: { effect: Effect.PREVENT, detectors: { raw_socket: {} } } });
    expect(await probe("raw", "2", "255")).toBe("EPERM");
    expect(await probe("raw", "10", "58")).toBe("EPERM");
    expect((await web.exec(PROBE, "packet", "3")).status).toBe(137);
    for (const how of ["packet-old", "xdp"]) expect((await web.exec(PROBE, how)).status, how).toBe(137);
    for (const how of ["socket", "socketcall"]) {
      expect((await web.exec(CALLS, "32", how)).status, how).toBe(137);
    }
    const raw = await rig.audited("the raw socket", (a) => a.message.includes("raw socket (protocol 255)"));
    expect(raw).toMatchObject({ delivery: Delivery.DENIED });
    expect(raw.event?.actor?.path).toBe(PROBE);
    const packet = await rig.audited("the packet socket", (a) => a.message.includes("a packet socket"));
    expect(packet).toMatchObject({ delivery: Delivery.KILLED });
    expect(packet.decision).toMatchObject({ outcome: Outcome.DETECTION, detector: "raw_socket" });
    await rig.audited("the XDP socket", (a) => a.message.includes("an XDP socket") && a.delivery === Delivery.KILLED);
  });

  onKernel("transports whose connections cannot be followed are told as their sockets are opened", async () => {
    const udplite = (...args: string[]) => probe("by", "udplite", ...args);
    expect(await udplite("udp-connect", HOST, "4456")).toBe("EPERM");
    expect(await udplite("bind-udp", "::", "4458", "0")).toBe("EPERM");
    const audit = await rig.audited("UDP-Lite", (a) => a.message.includes("not followed (protocol 136)"));
    expect(audit).toMatchObject({ delivery: Delivery.DENIED, decision: { detector: "raw_socket" } });
  });

  onKernel("a socket for echo requests is told as it is opened, and refused, though it is no raw one", async () => {
    await web.allowEchoSockets();
    expect(await probe("ping")).toBe("EPERM");
    const audit = await rig.audited("the echo socket", (a) => a.message.includes("not followed (protocol 1)"));
    expect(audit).toMatchObject({ delivery: Delivery.DENIED, decision: { detector: "raw_socket" } });
    await rig.rules({ network: { effect: Effect.ALERT, detectors: { raw_socket: {} } } });
    expect(await probe("ping")).toBe("ok");
    await rig.rules({ network: { effect: Effect.PREVENT, detectors: { raw_socket: {} } } });
  });

  onKernel("what a server of datagrams answers is no destination of its own", async () => {
    await rig.activate(LearningState.LEARNING);
    await rig.rules({ network: { effect: Effect.ALERT } });
    void web.exec(PROBE, "dns-serve", HOST, "192.0.2.9");
    const asks = () => probe("dns", "udp", HOST, "name.example", "1");
    await until("the server", 5_000, async () => (await asks()) === "ok" || undefined);
    await until("its port", 5_000, () => listening().find(({ port }) => port === 53));
    // What comes after the answer was seen after it.
    await probe("tcp", HOST, "7777");
    await until("what came afterwards", 5_000, () => outbound().find(({ port }) => port === 7_777));
    expect(outbound().filter(({ port }) => port >= 32_768)).toEqual([]);
    await rig.activate(LearningState.ACTIVE);
    await rig.rules({ network: { effect: Effect.PREVENT } });
    expect(await asks()).toBe("ok");
    expect(await probe("udp", HOST, "40000")).toBe("EPERM");
  });

  onKernel("the Kubernetes API server and kubelets have a detector of their own", async () => {
    const detected = (text: string) =>
      rig.audited(text, (a) => a.decision?.detector === "kubernetes_api" && a.message.includes(text));
    await rig.rules({ network: { effect: Effect.ALERT, detectors: { kubernetes_api: {} } } });
    expect(await probe("tcp", API_SERVER, "443")).toBe("ECONNREFUSED");
    expect((await detected("the Kubernetes API server was contacted")).delivery).toBe(Delivery.AUDITED);
    expect(await probe("tcp", INTERNAL, "10250")).toBe("ECONNREFUSED");
    expect((await detected("a kubelet was contacted")).decision?.outcome).toBe(Outcome.DETECTION);
    await rig.rules({ network: { effect: Effect.PREVENT, detectors: { kubernetes_api: {} } } });
    expect(await probe("tcp", API_SERVER, "443")).toBe("EPERM");
    expect(await probe("tcp", INTERNAL, "10255")).toBe("EPERM");
    expect(await probe("tcp", INTERNAL, "5432")).toBe("ECONNREFUSED");
  });

  onKernel("block refuses the connection and stops the container", async () => {
    await rig.rules({ network: { effect: Effect.BLOCK } });
    await web.exec(PROBE, "tcp", HOST, "6666");
    const audit = await rig.audited("port 6666", (a) => a.message.includes("6666"));
    expect(audit).toMatchObject({ delivery: Delivery.DENIED });
    expect(audit.deliveryNote).toMatch(/^the connect failed with EPERM; container stopped/);
    expect((await web.ended).status).toBe(137);
  });
});

onKernel("a port of lateral movement ends the dry run and is learned; a complete model tells it", async () => {
  await using rig = await AgentRig.open("lateral", LearningState.DRY_RUN);
  await rig.rules({ network: { effect: Effect.ALERT, detectors: { lateral_movement: { effect: Effect.PREVENT } } } });
  const web = await start(rig, "web");
  const connect = async (port: string) => (await web.exec(PROBE, "tcp", INTERNAL, port)).output.trim();
  const detected = (port: string, effectApplied: Effect) =>
    rig.audited(`port ${port}`, ({ decision, message }) => {
      const isOurs = decision?.detector === "lateral_movement" && message.includes(`tcp/${port}`);
      return isOurs && decision.effectApplied === effectApplied;
    });
  expect(await connect("5432")).toBe("ECONNREFUSED");
  await detected("5432", Effect.ALERT);
  const learned = await until("the fact", 5_000, () =>
    rig.observations.find((o) => o.kind === "fact" && o.value.fact?.kind.case === "outbound"),
  );
  expect(learned.value).toMatchObject({
    isDeviation: true,
    fact: { kind: { value: { port: 5432, address: INTERNAL } } },
  });
  await rig.activate(LearningState.ACTIVE);
  expect(await connect("5432")).toBe("ECONNREFUSED");
  expect(await connect("6379")).toBe("EPERM");
  expect((await detected("6379", Effect.PREVENT)).delivery).toBe(Delivery.DENIED);
});
