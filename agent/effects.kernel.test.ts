import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { sectionOfFact } from "#core/model/fact.ts";
import type { Audit } from "#gen/gabion/audit/v1/audit_pb.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { type Fact, LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Delivery, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../test/requirements.ts";
import { until } from "../tools/demo/until.ts";
import { AgentRig } from "../tools/sandbox/agent-rig.ts";
import {
  type Act,
  bringIntoForce,
  type Cell,
  type EffectName,
  effectActs,
  isOf,
  MARKER,
  perform,
  startActing,
} from "../tools/sandbox/effect-acts.ts";
import type { SandboxContainer } from "../tools/sandbox/runc.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
/** Told in every state: what comes after it in the stream was seen before it was audited. */
const MARKED = { process: { effect: Effect.ALERT, denied: [{ process: MARKER }] } };

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
    count += 1;
    web = await startActing(rig, `web${count}`);
    if (last) throw new Error(`${last.id} had ended unasked: ${JSON.stringify(await last.ended)}`);
    return web;
  }

  /** What was learned of an act since: nothing, where its section is off. */
  function learnedOf({ section, object }: Act, from: number) {
    const isItsOwn = (fact: Fact) =>
      sectionOfFact(fact) === Section[section] && (section !== "PROCESS" || JSON.stringify(fact.kind).includes(object));
    return rig.facts().slice(from).filter(isItsOwn);
  }

  async function isTold(act: Act, effect: EffectName, cell: Cell, own: () => readonly Audit[]): Promise<void> {
    const audit = await until("the audit", 10_000, () => own()[0]);
    expect(audit.delivery).toBe(Delivery[cell.delivery ?? "UNSPECIFIED"]);
    expect(audit.deliveryNote).toMatch(new RegExp(cell.note ?? "^$"));
    expect(audit.decision?.effectAsked).toBe(Effect[effect]);
    expect(audit.decision?.effectApplied).toBe(Effect[cell.applied ?? effect]);
    expect(audit.ruleName).toBe(act.name);
  }

  /** Acts until the container has told of a marker twice: the second one was made after the first was read. */
  async function settle(acted: SandboxContainer, from: number): Promise<void> {
    await rig.rules(MARKED);
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

  async function attempt(act: Act, effect: EffectName, cell: Cell): Promise<void> {
    const acted = await acting();
    const from = rig.audits.length;
    const factsBefore = rig.facts().length;
    const own = () => rig.audits.slice(from).filter((audit) => isOf(act, audit));
    await bringIntoForce(rig, act, effect);
    const { output } = await perform(acted, act, effect);
    if (cell.says !== null) expect(output.trim()).toMatch(new RegExp(cell.says));
    if (cell.delivery === undefined) {
      await settle(acted, from);
      expect(own()).toEqual([]);
      if (act.detector === undefined) expect(learnedOf(act, factsBefore)).toEqual([]);
    } else {
      await isTold(act, effect, cell, own);
    }
    if (cell.ends) {
      expect((await acted.ended).status).toBe(137);
      web = undefined;
    } else {
      expect(await acted.isRunning()).toBe(true);
    }
  }

  for (const act of effectActs()) {
    for (const [effect, cell] of Object.entries(act.cells) as [EffectName, Cell][]) {
      onKernel(`${act.name}: ${effect.toLowerCase()}`, () => attempt(act, effect, cell));
    }
  }
});
