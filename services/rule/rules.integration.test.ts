import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromMs } from "@bufbuild/protobuf/wkt";
import { expect, test } from "vitest";
import { isArmed } from "#core/policy/roll-out.ts";
import { NodeSchema } from "#gen/gabion/fleet/v1/fleet_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { type Rule, RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { type Container, ContainerSchema } from "#gen/gabion/workload/v1/workload_pb.ts";
import type { PublishedBody } from "#lib/bus/head-publisher.ts";
import { ManualClock } from "#lib/flow/clock.ts";
import { openStore } from "#lib/store/open.ts";
import type { FleetView } from "./fleet-view.ts";
import { unknownLabels } from "./reach.ts";
import { RollOuts } from "./roll-outs.ts";
import { RULE_CHANGES, RULESETS, Rules } from "./rules.ts";
import { addRule, replaceRule } from "./ruleset.ts";

/** A store, and as many replicas of what changes the rules as are wanted. */
async function openReplicas(stack: AsyncDisposableStack, count: number) {
  const directory = mkdtempSync(join(tmpdir(), "gabion-rules-"));
  stack.defer(() => rmSync(directory, { recursive: true }));
  const store = stack.use(await openStore({ dataDirectory: directory, mongodbUrl: "" }, "rule", []));
  const clock = new ManualClock();
  const rulesets = await store.collection(RULESETS);
  const changes = await store.collection(RULE_CHANGES);
  const published: PublishedBody[] = [];
  const replicas = Array.from(
    { length: count },
    () => new Rules({ rulesets, changes, clock, publish: (body) => published.push(body) }),
  );
  return { clock, replicas, published };
}

const rule = (name: string, more: Partial<Rule> = {}) =>
  create(RuleSchema, { name, process: { effect: Effect.ALERT }, ...more } as never);

test("two replicas that take changes at once lose none, and their history is one row without gaps", async () => {
  await using stack = new AsyncDisposableStack();
  const { replicas, published } = await openReplicas(stack, 2);
  const [first, second] = replicas as [Rules, Rules];
  const before = await first.current();
  const wanted = Array.from({ length: 12 }, (_, i) => `rule ${i}`);
  await Promise.all(
    wanted.map((name, i) =>
      (i % 2 === 0 ? first : second).change(`operator/${i % 2}`, (set, who) => addRule(set, rule(name), 0, who)),
    ),
  );
  const after = await second.current();
  expect(after.rules.map(({ name }) => name).sort()).toEqual([...wanted, before.rules[0]?.name].sort());
  expect(after.revision).toBe(before.revision + BigInt(wanted.length));
  const history = await first.changesAfter(after, before.revision);
  expect(history.map(({ rulesetRevision }) => rulesetRevision - before.revision)).toEqual(
    wanted.map((_, i) => BigInt(wanted.length - i)),
  );
  // What was published last is what stands there, whoever published it.
  expect(published.reduce((last, { revision }) => (revision > last ? revision : last), 0n)).toBe(after.revision);
});

test("of two editors that read the same rule, on two replicas, the second is refused and nothing is lost", async () => {
  await using stack = new AsyncDisposableStack();
  const { replicas } = await openReplicas(stack, 2);
  const [first, second] = replicas as [Rules, Rules];
  const made = await first.change("operator/ann", (set, who) => addRule(set, rule("web"), 0, who));
  if (!made) throw new Error("no rule was made");
  const edits = await Promise.allSettled([
    first.change("operator/ann", (set, who) =>
      replaceRule(set, create(RuleSchema, { ...made, description: "a" }), who),
    ),
    second.change("operator/ben", (set, who) =>
      replaceRule(set, create(RuleSchema, { ...made, description: "b" }), who),
    ),
  ]);
  expect(edits.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
  const [refused] = edits.flatMap((edit) => (edit.status === "rejected" ? [String(edit.reason)] : []));
  expect(refused).toContain("was changed since it was read");
  const winner = edits[0]?.status === "fulfilled" ? "a" : "b";
  expect((await second.current()).rules[0]).toMatchObject({ description: winner, revision: 2n });
});

const DWELL_MS = 60_000;
const NODES = Array.from({ length: 40 }, (_, i) => `n${i}`);

/** A roll-out over forty nodes, a tenth of them first, and a fleet whose containers the test makes. */
async function openRollOut(stack: AsyncDisposableStack, maxRestarts: number, stopped: readonly string[] = []) {
  const { clock, replicas } = await openReplicas(stack, 1);
  const [rules] = replicas as [Rules];
  const containers: Container[] = [];
  const fleet = {
    nodes: async () => NODES.map((nodeId) => create(NodeSchema, { nodeId, isConnected: true })),
    containers: async () => containers,
  } as Partial<FleetView> as FleetView;
  const made = await rules.change("operator/ann", (set, who) =>
    addRule(
      set,
      create(RuleSchema, {
        name: "careful",
        process: { effect: Effect.BLOCK },
        rollOut: { percents: [25, 100], dwell: durationFromMs(DWELL_MS), maxStops: 1, maxRestarts },
      }),
      0,
      who,
    ),
  );
  const rollOuts = new RollOuts({ rules, fleet, stoppedBy: async () => new Set(stopped), clock });
  const start = (nodeId: string) =>
    containers.push(
      create(ContainerSchema, {
        nodeId,
        containerId: `c${containers.length}`,
        startTime: timestampFromMs(clock.now()),
      }),
    );
  const state = async () => (await rules.current()).rules.find(({ name }) => name === "careful")?.rollOut;
  const armed = NODES.filter((nodeId) => isArmed(made as Rule, nodeId));
  return { clock, rollOuts, start, state, armed };
}

test("a stage goes on after its time where containers begin on its nodes as often as on the others", async () => {
  await using stack = new AsyncDisposableStack();
  const { clock, rollOuts, start, state } = await openRollOut(stack, 2);
  await clock.advance(DWELL_MS / 2);
  for (const nodeId of NODES) start(nodeId);
  await rollOuts.check();
  expect(await state()).toMatchObject({ stage: 0, isHalted: false });
  await clock.advance(DWELL_MS);
  await rollOuts.check();
  expect(await state()).toMatchObject({ stage: 1, isHalted: false });
  // Where all nodes are armed there is nothing to compare with: a new release is no sign of harm.
  await clock.advance(1_000);
  for (let i = 0; i < 3; i += 1) for (const nodeId of NODES) start(nodeId);
  await rollOuts.check();
  expect(await state()).toMatchObject({ stage: 1, isHalted: false });
});

test("it halts where more containers begin anew on its nodes than may, and says how many", async () => {
  await using stack = new AsyncDisposableStack();
  const { clock, rollOuts, start, state, armed } = await openRollOut(stack, 2);
  await clock.advance(1_000);
  for (const nodeId of NODES) start(nodeId);
  for (const nodeId of armed.slice(0, 2)) start(nodeId);
  await rollOuts.check();
  expect((await state())?.isHalted).toBe(false);
  start(armed[0] as string);
  await rollOuts.check();
  const halted = await state();
  expect(halted?.isHalted).toBe(true);
  expect(halted?.haltReason).toBe("3 containers more than elsewhere began on the nodes of stage 1, and 2 may");
});

test("a label that nothing has is told, where something runs that it could be compared with", () => {
  const labelled = create(RuleSchema, { name: "r", scope: { labels: ["team=web", "team:*", "-tier:db"] } });
  const running = create(ContainerSchema, { containerId: "c", labels: { team: "web", tier: "db" } });
  expect(unknownLabels(labelled, []).map(({ field }) => field)).toEqual([]);
  expect(unknownLabels(labelled, [running])).toEqual([
    {
      field: "scope.labels[0]",
      message: "no container that runs now has a label that `team=web` matches; labels are written `key:value`",
    },
  ]);
});

test("it halts where the rule stopped more containers than may be", async () => {
  await using stack = new AsyncDisposableStack();
  const { clock, rollOuts, state } = await openRollOut(stack, 2, ["n1/c1", "n1/c2"]);
  await clock.advance(1_000);
  await rollOuts.check();
  expect((await state())?.haltReason).toBe("2 containers were stopped in stage 1, and 1 may be");
});
