import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { ContentState, EventSchema, Section } from "#gen/gabion/event/v1/event_pb.ts";
import { JournalRecordSchema, LearningState, ModelPolicySchema } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { ContainerSchema } from "#gen/gabion/workload/v1/workload_pb.ts";
import { Simulation } from "./simulate.ts";

const process = (path: string) => ({
  path,
  name: path.slice(path.lastIndexOf("/") + 1),
  invokedPath: path,
  contentState: ContentState.UNCHANGED,
});

const containers = ["web-1", "web-2", "db"].map((name) =>
  create(ContainerSchema, { containerId: name, name, nodeId: "n", modelKey: "m-1" }),
);
const byKey = new Map(containers.map((container) => [`n/${container.containerId}`, container] as const));
const model = {
  containers,
  policy: create(ModelPolicySchema, {
    modelKey: "m-1",
    sections: [
      {
        section: Section.PROCESS,
        state: LearningState.ACTIVE,
        facts: [{ kind: { case: "process", value: process("/bin/known") } }],
      },
    ],
  }),
};

function record(day: string, path: string, counts: Record<string, number>) {
  const event = create(EventSchema, {
    actor: process(path),
    kind: { case: "exec", value: { process: process(path) } },
  });
  return create(JournalRecordSchema, {
    modelKey: "m-1",
    day,
    event,
    counts: Object.entries(counts).map(([containerId, count]) => ({ nodeId: "n", containerId, count: BigInt(count) })),
  });
}

const rule = (init: MessageInitShape<typeof RuleSchema>) => create(RuleSchema, init);
const alerting = rule({ name: "all", process: { effect: Effect.ALERT } });
const blocking = rule({
  name: "web",
  scope: { containers: ["web-*"] },
  process: { effect: Effect.BLOCK, denied: [{ process: "/bin/known" }] },
});

test("a draft is tried on what was recorded, beside the rules in force", () => {
  const simulation = new Simulation([alerting], [blocking, alerting]);
  simulation.addRecord(record("2026-11-24", "/bin/odd", { "web-1": 3, db: 2 }), model, byKey);
  simulation.addRecord(record("2026-11-25", "/bin/odd", { "web-1": 1, "web-2": 1, gone: 9 }), model, byKey);
  const day = (name: string) => {
    const { now, draft } = simulation.days.get(name) ?? {};
    return [now?.audited, now?.prevented, now?.stopped.size, draft?.audited, draft?.prevented, draft?.stopped.size];
  };
  expect(day("2026-11-24")).toEqual([5, 0, 0, 5, 3, 1]);
  expect(day("2026-11-25")).toEqual([2, 0, 0, 2, 2, 2]);
  expect(simulation.decisionCount).toBe(8);
  const [change] = simulation.changes.values();
  expect(change).toMatchObject({
    count: 5,
    ruleName: "web",
    now: { effectApplied: Effect.ALERT },
    draft: { effectApplied: Effect.BLOCK },
  });
  expect([...(change?.containers ?? [])].sort()).toEqual(["n/web-1", "n/web-2"]);
});

test("what a model knows is tried too, for it is counted by nobody", () => {
  const simulation = new Simulation([alerting], [blocking, alerting]);
  simulation.addModel("m-1", model);
  expect([...simulation.changes.values()]).toMatchObject([
    { count: 0, draft: { effectApplied: Effect.BLOCK, explanation: { matched: "/bin/known" } } },
  ]);
  expect(simulation.days.size).toBe(0);
});

test("a draft that changes nothing changes nothing", () => {
  const simulation = new Simulation([alerting], [alerting]);
  simulation.addRecord(record("2026-11-24", "/bin/odd", { "web-1": 3 }), model, byKey);
  simulation.addModel("m-1", model);
  expect(simulation.changes.size).toBe(0);
});
