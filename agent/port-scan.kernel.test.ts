import { create } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { addressText } from "#core/matching/address.ts";
import { Transport } from "#gen/gabion/event/v1/event_pb.ts";
import { FactSchema, LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Delivery, Effect, Outcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { until } from "../tools/demo/until.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";
import type { SandboxContainer } from "../tools/sandbox/runc.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const withNmap = test.skipIf(missing(...CONTAINERS, "nmap") !== "");
const PROBE = "/opt/netprobe";
/** Of networks for documentation (RFC 5737, RFC 3849): the Internet, as far as anybody can tell. */
const HOST = "203.0.113.5";
const HOST6 = "2001:db8::5";
/** A network of the rig's own cluster. */
const PODS = "192.0.2";

async function start(rig: AgentRig, id: string): Promise<SandboxContainer> {
  const container = rig.sandbox.start(id, {
    args: ["/bin/httpd", "-f", "-p", "8000", "-h", "/srv"],
    programs: ["/bin/httpd"],
    files: {
      [PROBE]: { content: testProgram("netprobe"), mode: 0o755 },
      "/srv/index.html": { content: "hello\n", mode: 0o644 },
    },
  });
  await rig.watched(id);
  await container.addAddresses("203.0.113.0/24", `${PODS}.0/24`, HOST6, "2001:db8:1::/64");
  return container;
}

describe("port scans", () => {
  let rig: AgentRig;
  let web: SandboxContainer;
  const scans = () => rig.audits.filter((a) => a.decision?.detector === "port_scan");

  const outbound = (port: number) =>
    create(FactSchema, { kind: { case: "outbound", value: { transport: Transport.TCP, port } } });
  /** What comes behind a contact in the stream, once it has been looked at. */
  const seen = async (port: number) => {
    await web.exec(PROBE, "tcp", HOST, String(port));
    await rig.audited(`port ${port}`, (a) => a.message.includes(`tcp/${port}`));
  };

  beforeAll(async () => {
    if (missing(...CONTAINERS) !== "") return;
    rig = await AgentRig.open("scan", LearningState.LEARNING);
    await rig.rules({
      network: {
        effect: Effect.ALERT,
        denied: { outboundPorts: [{ first: 9_000, last: 9_100 }] },
        detectors: { port_scan: {} },
      },
    });
    web = await start(rig, "web");
    for (const [network, port] of [
      ["203.0.113", "443"],
      [PODS, "8080"],
    ] as const) {
      void web.exec(PROBE, "serve-many", network, "1", "254", port, network === PODS ? "20" : "5");
      await until(`${network} to serve`, 10_000, async () => {
        const { output } = await web.exec(PROBE, "tcp", `${network}.254`, port);
        return output.trim() === "ok" || undefined;
      });
    }
  });
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  for (const [number, name] of (["LEARNING", "ACTIVE"] as const).entries()) {
    const state = LearningState[name];
    const knows = () => rig.activate(state, [outbound(443), outbound(8_000)]);
    const isNone = async (port: number) => {
      await seen(9_000 + 10 * number + port);
      expect(scans()).toEqual([]);
    };

    onKernel(`a crawler that reaches four hosts in five is none (${name.toLowerCase()})`, async () => {
      await knows();
      for (let round = 0; round < 2; round += 1) await web.exec(PROBE, "scan", "203.0.113", "1", "254", "443", "443");
      await isNone(1);
    });

    onKernel(
      `a health checker that comes round and round, and finds some dead each time, is none (${name.toLowerCase()})`,
      async () => {
        await knows();
        for (let round = 0; round < 5; round += 1) await web.exec(PROBE, "scan", PODS, "1", "254", "8080", "8080");
        await isNone(2);
      },
    );

    onKernel(`a web server under load, and whoever loads it, are none (${name.toLowerCase()})`, async () => {
      await knows();
      const clients = Array.from({ length: 4 }, () => web.exec(PROBE, "fetch", HOST, "8000", "400"));
      for (const { output } of await Promise.all(clients)) expect(output.trim()).toBe("400 answered");
      await isNone(3);
    });

    onKernel(`a service whose upstreams fail again and again is none (${name.toLowerCase()})`, async () => {
      await rig.activate(state, [443, 5_432, 6_379, 9_092, 9_200, 27_017].map(outbound));
      for (let round = 0; round < 10; round += 1) {
        for (const port of ["5432", "6379", "9092", "9200", "27017"]) {
          await web.exec(PROBE, "scan", "203.0.113", "1", "4", port, port);
        }
      }
      await isNone(4);
    });
  }

  onKernel("many ports of one host are a vertical scan, told while the model still learns", async () => {
    await rig.activate(LearningState.LEARNING);
    await web.exec(PROBE, "scan", "203.0.113", "9", "9", "1", "60");
    const audit = await until("the scan", 10_000, () => scans()[0]);
    // One may have been reached before: that by the crawler.
    expect(audit.message).toMatch(/15 ports of 203.0.113.9 were tried; 15 of 1[56] first contacts failed/);
    expect(audit.event?.kind).toMatchObject({ case: "portScan", value: { isHorizontal: false, portCount: 15 } });
  });

  onKernel("many hosts on one port are a horizontal scan", async () => {
    await web.exec(PROBE, "scan", "203.0.113", "20", "90", "22", "22");
    const audit = await until("the scan", 10_000, () => scans().find((a) => a.message.includes("hosts")));
    expect(audit.message).toMatch(/25 hosts were tried on port 22/);
    expect(audit.decision).toMatchObject({ isHeld: true, outcome: Outcome.DETECTION });
  });

  onKernel(
    "once active six destinations that the model does not know are enough, and those that it knows are none",
    async () => {
      const from = rig.audits.length;
      const found = () => rig.audits.slice(from).filter((a) => a.decision?.detector === "port_scan");
      const known = create(FactSchema, { kind: { case: "outbound", value: { transport: Transport.TCP, port: 443 } } });
      await rig.activate(LearningState.ACTIVE, [known]);
      await web.exec(PROBE, "scan", "203.0.113", "200", "212", "443", "443");
      await web.exec(PROBE, "scan", "203.0.113", "230", "230", "5000", "5005");
      const audit = await until("the scan", 10_000, () => found()[0]);
      expect(audit.message).toMatch(/6 of 6 first contacts that the model does not know failed/);
      await rig.activate(LearningState.LEARNING);
    },
  );

  onKernel(
    "once active three internal addresses that cannot be reached are enough, on a port that the model does not hold",
    async () => {
      const from = rig.audits.length;
      const found = () => rig.audits.slice(from).filter((a) => a.message.includes("cannot be reached"));
      const within = (address: string, port: number) => {
        const value = { transport: Transport.TCP, port, address };
        return create(FactSchema, { kind: { case: "outbound", value } });
      };
      await web.addNetwork("10.77.0.1/24");
      await rig.activate(LearningState.ACTIVE, [within("10.77.0.200", 7_000)]);
      const tried = async (port: string, ...hosts: string[]) => {
        const all = await Promise.all(hosts.map((host) => web.exec(PROBE, "tcp", `10.77.0.${host}`, port)));
        expect(all.map(({ output }) => output.trim())).toEqual(hosts.map(() => "EHOSTUNREACH"));
      };
      // Peers that are gone, as a member of a cluster remembers them.
      await tried("7000", "10", "11", "12", "13", "14", "15", "16");
      await seen(9_060);
      expect(found()).toEqual([]);
      await tried("22", "20", "21", "22");
      const audit = await until("the scan", 10_000, () => found()[0]);
      expect(audit.message).toBe(
        "a port scan: 3 internal addresses that cannot be reached were tried, the first on port 22",
      );
      await rig.activate(LearningState.LEARNING);
    },
  );

  onKernel("UDP ports of one host that nobody listens at are one, many hosts without an answer are none", async () => {
    const from = rig.audits.length;
    const found = () => rig.audits.slice(from).filter((a) => a.decision?.detector === "port_scan");
    await web.exec(PROBE, "scan-udp", "203.0.113", "20", "90", "53", "53");
    await web.exec(PROBE, "scan-udp", "203.0.113", "10", "10", "1", "40");
    const audit = await until("the scan", 10_000, () => found()[0]);
    expect(audit.message).toMatch(/15 UDP ports of 203.0.113.10 were tried; 15 of 15 first contacts failed/);
    expect(audit.event?.kind).toMatchObject({ value: { samples: { length: 15 } } });
  });

  onKernel("datagrams that arrive, and say when they left, are none", async () => {
    const from = rig.audits.length;
    for (const address of [HOST, HOST6]) {
      expect((await web.exec(PROBE, "stamped", address, "6000", "40")).output.trim()).toBe("ok");
    }
    await seen(9_050);
    expect(rig.audits.slice(from).filter((a) => a.decision?.detector === "port_scan")).toEqual([]);
    await web.exec(PROBE, "scan-udp", "2001:db8:1::", "200", "200", "1", "40");
    await until("the scan", 10_000, () => scans().find((a) => a.message.includes("UDP ports of 2001:db8:1::c8")));
  });

  onKernel("hosts of IPv6 are told apart, reached ones from those that nobody answers at", async () => {
    const from = rig.audits.length;
    const found = () => rig.audits.slice(from).filter((a) => a.decision?.detector === "port_scan");
    await web.exec(PROBE, "scan", "2001:db8:1::", "1", "80", "23", "23");
    const audit = await until("the scan", 10_000, () => found()[0]);
    expect(audit.message).toMatch(/25 hosts were tried on port 23; 25 of 25 first contacts failed/);
    const kind = audit.event?.kind;
    const samples = kind?.case === "portScan" ? kind.value.samples : [];
    expect(samples.map(({ address }) => addressText(address)).slice(0, 2)).toEqual(["2001:db8:1::1", "2001:db8:1::2"]);
  });

  describe("of nmap", () => {
    const since = (from: number) => rig.audits.slice(from).filter((a) => a.decision?.detector === "port_scan");
    const scanned = async (...args: string[]) => {
      const from = rig.audits.length;
      await web.runFromHost("nmap", "-n", "-Pn", ...args);
      return (text: string) => until(text, 10_000, () => since(from).find((a) => a.message.includes(text)));
    };

    beforeAll(async () => {
      if (missing(...CONTAINERS) === "") await rig.activate(LearningState.LEARNING);
    });

    withNmap("that looks for ports by connecting", async () => {
      await (await scanned("-sT", "-p", "100-400", "203.0.113.99"))("ports of 203.0.113.99");
    });

    withNmap("that looks for hosts by connecting", async () => {
      await (await scanned("-sT", "-p", "2222", "203.0.113.100-180"))("on port 2222");
    });

    withNmap("that connects over IPv6", async () => {
      await (await scanned("-6", "-sT", "-p", "100-400", HOST6))(`ports of ${HOST6}`);
    });

    withNmap("that takes its time", async () => {
      await (await scanned("-sT", "--max-rate", "10", "-p", "100-140", "203.0.113.98"))("ports of 203.0.113.98");
    });

    withNmap("that sends its own packets is one by its raw and packet sockets, which can be refused", async () => {
      for (const how of ["-sS", "-sU"]) {
        await rig.rules({ network: { effect: Effect.ALERT, detectors: { raw_socket: {} } } });
        await rig.activate(LearningState.ACTIVE);
        const from = rig.audits.length;
        const raw = (delivery: Delivery) => (a: (typeof rig.audits)[number]) =>
          rig.audits.indexOf(a) >= from && a.decision?.detector === "raw_socket" && a.delivery === delivery;
        const open = await web.runFromHost("nmap", "-n", "-Pn", how, "-p", "100-110", "203.0.113.97");
        expect(open.output).toContain("203.0.113.97");
        await rig.audited(`the sockets of ${how}`, raw(Delivery.AUDITED));
        await rig.rules({ network: { effect: Effect.PREVENT, detectors: { raw_socket: {} } } });
        const refused = await web.runFromHost("nmap", "-n", "-Pn", how, "-p", "100-110", "203.0.113.97");
        expect(refused.output).not.toMatch(/\d+\/(tcp|udp)/);
        await rig.audited(`the refused sockets of ${how}`, raw(Delivery.DENIED));
      }
    });
  });
});
