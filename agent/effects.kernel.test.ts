import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { fromJson, type JsonValue, type MessageInitShape } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Audit } from "#gen/gabion/audit/v1/audit_pb.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { IntelSetSchema } from "#gen/gabion/intel/v1/intel_pb.ts";
import { FactSchema, LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Delivery, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { until } from "../tools/demo/until.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import { testProgram } from "../tools/sandbox/programs.ts";
import type { SandboxContainer } from "../tools/sandbox/runc.ts";

interface Cell {
  readonly says: string | null;
  readonly ends?: boolean;
  readonly delivery?: keyof typeof Delivery;
  readonly note?: string;
}

interface Act {
  readonly name: string;
  readonly section: keyof typeof Section;
  readonly detector?: string;
  readonly state?: keyof typeof LearningState;
  readonly facts?: readonly JsonValue[];
  readonly intel?: JsonValue;
  readonly user?: string;
  readonly rule: JsonValue;
  readonly act: readonly string[];
  readonly object: string;
  readonly cells: Readonly<Partial<Record<"DISABLE" | "ALERT" | "PREVENT" | "BLOCK", Cell>>>;
}

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const PROBE_SHA256 = createHash("sha256").update(testProgram("netprobe")).digest();
const API_SERVER = "10.96.0.1";
const METADATA = ["169.254.169.254", "fd00:ec2::254"];
const acts = ["effects.json", "detector-effects.json"].flatMap((name) => {
  const text = readFileSync(resolve(import.meta.dirname, "testdata", name), "utf8")
    .replaceAll("BASE64_SHA256_OF_PROBE", PROBE_SHA256.toString("base64"))
    .replaceAll("SHA256_OF_PROBE", PROBE_SHA256.toString("hex"));
  return (JSON.parse(text) as { acts: Act[] }).acts;
});
/** Told in every state: what comes after it in the stream was seen before it was audited. */
const MARKER = "/opt/marker";
const MARKED: JsonValue = { process: { effect: "EFFECT_ALERT", denied: [{ process: MARKER }] } };

/** The sections of a rule written as JSON; who it is is the rig's to say. */
function sections(json: JsonValue): MessageInitShape<typeof RuleSchema> {
  const { process, network, dns, filesystem, syscall } = fromJson(RuleSchema, json);
  const all = Object.entries({ process, network, dns, filesystem, syscall });
  return Object.fromEntries(all.filter(([, section]) => section !== undefined));
}

/** The text with the effect put in; in rules it is the name of an enumeration's value, and those are left alone. */
function withEffect<T>(value: T, effect: string): T {
  return JSON.parse(JSON.stringify(value).replaceAll(/EFFECT(?!_)/g, effect)) as T;
}

/** True for an audit of what an act did, by whoever has to find it. */
function isOf({ section, object, detector }: Act, { section: of, message, container, decision }: Audit): boolean {
  const isFound = detector === undefined || decision?.detector === detector;
  return isFound && of === Section[section] && message.includes(object) && container !== undefined;
}

describe("what each act comes to under each effect", () => {
  let rig: AgentRig;
  let web: SandboxContainer | undefined;
  let count = 0;

  /** The container that acts. One that has ended unasked fails this act and not every later one. */
  async function acting(): Promise<SandboxContainer> {
    const last = web;
    if (last && (await last.isRunning())) return last;
    web = undefined;
    await rig.rules({ scope: { containers: ["none"] } });
    web = await start();
    if (last) throw new Error(`${last.id} had ended unasked: ${JSON.stringify(await last.ended)}`);
    return web;
  }

  async function start(): Promise<SandboxContainer> {
    count += 1;
    const id = `web${count}`;
    const file = (name: Parameters<typeof testProgram>[0]) => ({ content: testProgram(name), mode: 0o755 });
    const text = { content: "x\n", mode: 0o644 };
    const names = ["DISABLE", "ALERT", "PREVENT", "BLOCK"].map((name) => [`/var/data/${name}`, text] as const);
    const container = rig.sandbox.start(id, {
      args: ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"],
      programs: ["/bin/sh", "/bin/sleep", "/bin/rm", "/bin/mv", "/bin/cp", "/bin/chmod"],
      capabilities: ["CAP_NET_RAW"],
      env: [`KUBERNETES_SERVICE_HOST=${API_SERVER}`],
      files: {
        "/opt/netprobe": file("netprobe"),
        "/opt/bad": file("nothing"),
        "/opt/xmrig": file("netprobe"),
        "/opt/nmap": file("netprobe"),
        "/opt/changed": file("netprobe"),
        "/opt/memfd": file("memfd"),
        "/opt/setuid": { ...file("netprobe"), mode: 0o4755 },
        [MARKER]: file("nothing"),
        "/etc/passwd": text,
        "/etc/shadow": text,
        "/etc/hosts": text,
        "/etc/ld.so.preload": { content: "", mode: 0o644 },
        "/root/.ssh/authorized_keys": text,
        ...Object.fromEntries(names),
      },
    });
    await rig.watched(id);
    const others = ["203.0.113.5", "10.1.2.3", "2001:db8::5", "10.0.0.53", "10.0.0.54", API_SERVER, ...METADATA];
    await container.addAddresses(...others);
    const init = String(await container.initPid());
    execFileSync("nsenter", ["-t", init, "-n", "sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647"]);
    void container.exec("/opt/netprobe", "dns-serve", "10.0.0.53", "203.0.113.5");
    void container.exec("/opt/netprobe", "serve", "10.0.0.54", "53", "300");
    await until("the resolvers", 10_000, async () => {
      const answers = await Promise.all([
        container.exec("/opt/netprobe", "dns", "udp", "10.0.0.53", "ready.example", "1"),
        container.exec("/opt/netprobe", "tcp", "10.0.0.54", "53"),
      ]);
      return answers.every(({ output }) => output.trim() === "ok") || undefined;
    });
    return container;
  }

  async function bringIntoForce(act: Act, effect: string): Promise<void> {
    const { files, domains, prefixes } = fromJson(IntelSetSchema, act.intel ?? {});
    await rig.intel({ files, domains, prefixes });
    const facts = (act.facts ?? []).map((fact) => fromJson(FactSchema, fact));
    await rig.activate(LearningState[act.state ?? "LEARNING"], facts);
    await rig.rules({ name: act.name, ...sections(withEffect(act.rule, `EFFECT_${effect}`)) });
  }

  /** Acts until the container has told of a marker twice: the second one was made after the first was read. */
  async function settle(acted: SandboxContainer, from: number): Promise<void> {
    await rig.rules(sections(MARKED));
    for (const way of ["/bin/sh", MARKER]) {
      const command = way === MARKER ? [MARKER, String(from)] : ["/bin/sh", "-c", MARKER];
      await acted.exec(...command);
    }
    await rig.audited("the marker", (a) => rig.audits.indexOf(a) >= from && a.message.includes(MARKER));
    await rig.agent.containers.byId(acted.id)?.events.idle();
  }

  beforeAll(async () => {
    if (missing(...CONTAINERS) !== "") return;
    rig = await AgentRig.open("effects", LearningState.LEARNING);
  });
  afterAll(async () => rig?.[Symbol.asyncDispose]());

  for (const act of acts) {
    for (const [effect, cell] of Object.entries(act.cells)) {
      onKernel(`${act.name}: ${effect.toLowerCase()}`, async () => {
        const acted = await acting();
        const from = rig.audits.length;
        const own = () => rig.audits.slice(from).filter((audit) => isOf(act, audit));
        await bringIntoForce(act, effect);
        const { output } = await acted.execAs(act.user ?? "0:0", ...withEffect(act.act, effect));
        if (cell.says !== null) expect(output.trim()).toMatch(new RegExp(cell.says));
        if (cell.delivery === undefined) {
          await settle(acted, from);
          expect(own()).toEqual([]);
        } else {
          const audit = await until("the audit", 10_000, () => own()[0]);
          expect(audit.delivery).toBe(Delivery[cell.delivery]);
          expect(audit.deliveryNote).toMatch(new RegExp(cell.note ?? "^$"));
          expect(audit.decision?.effectAsked).toBe(Effect[effect as keyof typeof Effect]);
          expect(audit.decision?.effectApplied).toBe(Effect[effect as keyof typeof Effect]);
          expect(audit.ruleName).toBe(act.name);
        }
        if (cell.ends) {
          expect((await acted.ended).status).toBe(137);
          web = undefined;
        } else {
          expect(await acted.isRunning()).toBe(true);
        }
      });
    }
  }
});
