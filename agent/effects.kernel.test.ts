import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { fromJson, type JsonValue, type MessageInitShape } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
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
  readonly state?: keyof typeof LearningState;
  readonly rule: JsonValue;
  readonly act: readonly string[];
  readonly object: string;
  readonly cells: Readonly<Partial<Record<"DISABLE" | "ALERT" | "PREVENT" | "BLOCK", Cell>>>;
}

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const PROBE_SHA256 = createHash("sha256").update(testProgram("netprobe")).digest("hex");
const table = JSON.parse(
  readFileSync(resolve(import.meta.dirname, "testdata/effects.json"), "utf8").replaceAll(
    "SHA256_OF_PROBE",
    PROBE_SHA256,
  ),
) as { acts: Act[] };
/** Told in every state: what comes after it in the stream was seen before it was audited. */
const MARKER = "/opt/marker";
const MARKED: JsonValue = { process: { effect: "EFFECT_ALERT", denied: [{ process: MARKER }] } };

/** The sections of a rule written as JSON; who it is is the rig's to say. */
function sections(json: JsonValue): MessageInitShape<typeof RuleSchema> {
  const { process, network, dns, filesystem, syscall } = fromJson(RuleSchema, json);
  const all = Object.entries({ process, network, dns, filesystem, syscall });
  return Object.fromEntries(all.filter(([, section]) => section !== undefined));
}

/** The text with the effect put in; in rules it is the name of an enumeration's value. */
function withEffect<T>(value: T, effect: string): T {
  return JSON.parse(JSON.stringify(value).replaceAll("EFFECT", effect)) as T;
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
      programs: ["/bin/sh", "/bin/sleep", "/bin/rm", "/bin/mv", "/bin/chmod"],
      capabilities: ["CAP_NET_RAW"],
      files: {
        "/opt/netprobe": file("netprobe"),
        "/opt/bad": file("nothing"),
        [MARKER]: file("nothing"),
        "/etc/passwd": text,
        "/etc/shadow": text,
        "/etc/hosts": text,
        ...Object.fromEntries(names),
      },
    });
    await rig.watched(id);
    await container.addAddresses("203.0.113.5", "10.1.2.3", "2001:db8::5", "10.0.0.53", "10.0.0.54");
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

  for (const act of table.acts) {
    for (const [effect, cell] of Object.entries(act.cells)) {
      onKernel(`${act.name}: ${effect.toLowerCase()}`, async () => {
        const acted = await acting();
        const from = rig.audits.length;
        const own = () =>
          rig.audits
            .slice(from)
            .filter((a) => a.section === Section[act.section] && a.message.includes(act.object) && a.container);
        await rig.activate(LearningState[act.state ?? "LEARNING"], []);
        await rig.rules({ name: act.name, ...sections(withEffect(act.rule, `EFFECT_${effect}`)) });
        const { output } = await acted.exec(...withEffect(act.act, effect));
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
