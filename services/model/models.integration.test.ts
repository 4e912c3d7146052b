import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { factId } from "#core/model/fact.ts";
import { modelKey } from "#core/model/key.ts";
import { DEFAULT_DURATIONS } from "#core/model/lifecycle.ts";
import { ContentState, Section } from "#gen/gabion/event/v1/event_pb.ts";
import { AgentHelloSchema } from "#gen/gabion/fleet/v1/fleet_pb.ts";
import { type Fact, FactSchema, ObservedFactSchema, StaticAnalysisSchema } from "#gen/gabion/model/v1/model_pb.ts";
import { type Container, ContainerSchema, ModelScopeSchema } from "#gen/gabion/workload/v1/workload_pb.ts";
import { ManualClock } from "#lib/flow/clock.ts";
import { LEASES, Lease } from "#lib/store/lease.ts";
import { openStore } from "#lib/store/open.ts";
import { createLogger } from "#lib/telemetry/log.ts";
import { CONTAINERS, Fleet, NODES } from "./fleet.ts";
import { HISTORY, HistoryLog } from "./history.ts";
import { applyBatch } from "./learn.ts";
import { dueMs } from "./life.ts";
import { toModel } from "./message.ts";
import { Models } from "./models.ts";
import { applyAnalysis } from "./operations.ts";
import { modelCollection } from "./record.ts";
import { Summaries, summaryFields } from "./summary.ts";

const LEASE_MS = 600_000;

/** A store, and as many replicas of what changes models as are wanted. */
async function openReplicas(stack: AsyncDisposableStack, count: number, carriesOver = false) {
  const directory = mkdtempSync(join(tmpdir(), "gabion-models-"));
  stack.defer(() => rmSync(directory, { recursive: true }));
  const store = stack.use(await openStore({ dataDirectory: directory, mongodbUrl: "" }, "model", []));
  const clock = new ManualClock();
  const collection = await store.collection(
    modelCollection(
      (record) => dueMs(record, DEFAULT_DURATIONS),
      (record) => summaryFields(record, DEFAULT_DURATIONS),
    ),
  );
  const logs = await store.collection(HISTORY);
  const replicas = Array.from({ length: count }, () => {
    const history = new HistoryLog(logs);
    const models = new Models({
      collection,
      clock,
      durations: DEFAULT_DURATIONS,
      history,
      carriesOver,
      onChange: () => {},
      publish: () => {},
      unpublish: () => {},
      logger: createLogger("test", "error"),
    });
    return { models, history };
  });
  const fleet = new Fleet(await store.collection(NODES), await store.collection(CONTAINERS), clock);
  return { store, clock, collection, replicas, fleet };
}

function container(id: string, digest = "a", nodeId = "n1"): Container {
  const scope = create(ModelScopeSchema, { imageDigest: `sha256:${digest.repeat(64)}` });
  return create(ContainerSchema, {
    containerId: id,
    nodeId,
    modelKey: modelKey(scope),
    modelScope: scope,
    image: { name: `docker.io/library/web:${digest}`, digest: scope.imageDigest },
  });
}

function program(path: string): Fact {
  const value = { path, name: path.slice(path.lastIndexOf("/") + 1), contentState: ContentState.UNCHANGED };
  return create(FactSchema, { kind: { case: "process", value } });
}

let sequence = 0;
function learn(
  models: Models,
  { modelKey: key, containerId, nodeId }: Container,
  facts: readonly Fact[],
  nowMs: number,
) {
  sequence += 1;
  const batch = {
    facts: facts.map((fact) => create(ObservedFactSchema, { modelKey: key, fact, containerId })),
    seenUnits: [],
    spans: [],
    containers: [],
  };
  const from = { nodeId, runId: `run-${sequence}`, sequence: 1 };
  return models.change(key, (record) => applyBatch(record, batch, from, DEFAULT_DURATIONS, nowMs));
}

test("two replicas that change one model at once lose nothing of what either was told", async () => {
  await using stack = new AsyncDisposableStack();
  const { replicas, clock, collection } = await openReplicas(stack, 2);
  const web = container("c1");
  await replicas[0]?.models.ensure(web, [Section.PROCESS]);
  const facts = Array.from({ length: 60 }, (_, i) => program(`/bin/p${i}`));
  await Promise.all(
    facts.map((fact, i) => learn((replicas[i % 2] as (typeof replicas)[number]).models, web, [fact], clock.now())),
  );
  const items = (await collection.get(web.modelKey))?.value.sections[0]?.items ?? {};
  expect(Object.keys(items).sort()).toEqual(facts.map(factId).sort());
});

test("a history is whole, in order, and begins anew with a model that is made anew", async () => {
  await using stack = new AsyncDisposableStack();
  const { replicas, clock, collection } = await openReplicas(stack, 2);
  const [one, two] = replicas as [(typeof replicas)[number], (typeof replicas)[number]];
  const web = container("c1");
  const entries = async (from: typeof one) => {
    const record = (await collection.get(web.modelKey))?.value;
    if (!record) return [];
    await from.history.carry(web.modelKey, record);
    return (await from.history.read(web.modelKey, record, 0, 10_000)).map(({ sequence: n, text }) => `${n} ${text}`);
  };
  await one.models.ensure(web, [Section.PROCESS]);
  await learn(one.models, web, [program("/bin/a")], clock.now());
  await learn(two.models, web, [program("/bin/b")], clock.now());
  expect(await entries(one)).toEqual([
    "1 learning began: the section came into use",
    "2 `/bin/a` added: seen in a running container",
    "3 `/bin/b` added: seen in a running container",
  ]);
  // More than a batch at once: an analysis of a large image.
  const many = Array.from({ length: 1_800 }, (_, i) => ({ fact: program(`/bin/many${i}`), reason: "a script" }));
  await one.models.change(web.modelKey, (r) =>
    applyAnalysis(r, create(StaticAnalysisSchema, { items: many }), clock.now()),
  );
  expect(await entries(two)).toHaveLength(1_803);
  // Archived, removed a day later by one replica, and made anew by the other.
  await one.models.change(web.modelKey, (r) => ({ ...r, containers: {}, archivedMs: clock.now() }));
  await clock.advance(DEFAULT_DURATIONS.archiveMs + 1);
  await one.models.tick();
  expect(await collection.get(web.modelKey)).toBeUndefined();
  await two.models.ensure(container("c2"), [Section.PROCESS]);
  await learn(two.models, container("c2"), [program("/bin/new")], clock.now());
  expect(await entries(two)).toEqual([
    "1 learning began: the section came into use",
    "2 `/bin/new` added: seen in a running container",
  ]);
});

test("two replicas that carry one history, of which one knows less, leave no entry out and none twice", async () => {
  await using stack = new AsyncDisposableStack();
  const { replicas, clock, store } = await openReplicas(stack, 2);
  const web = container("c1");
  const [one, other] = replicas as [(typeof replicas)[number], (typeof replicas)[number]];
  await one.models.ensure(web, [Section.PROCESS]);
  for (let i = 0; i < 40; i += 1) {
    const facts = Array.from({ length: 30 }, (_, k) => program(`/bin/p${i}-${k}`));
    await Promise.all([
      learn(one.models, web, facts.slice(0, 15), clock.now()),
      learn(other.models, web, facts.slice(15), clock.now()),
    ]);
  }
  const record = (await one.models.change(web.modelKey, (r) => r))?.value;
  if (!record) throw new Error("no model");
  await other.history.carry(web.modelKey, record);
  const whole = async (history: HistoryLog) => {
    const read = [];
    for (let after = 0; ; ) {
      const page = await history.read(web.modelKey, record, after, 70);
      read.push(...page);
      after = page.at(-1)?.sequence ?? after;
      if (page.length < 70) return read.map(({ sequence }) => sequence);
    }
  };
  const expected = Array.from({ length: record.historySequence ?? 0 }, (_, i) => i + 1);
  expect(expected.length).toBeGreaterThan(1_200);
  expect(await whole(one.history)).toEqual(expected);
  // A process that begins anew knows nothing of what it carried, and carries nothing a second time.
  const fresh = new HistoryLog(await store.collection(HISTORY));
  await fresh.carry(web.modelKey, record);
  expect(await whole(fresh)).toEqual(expected);
});

test("lists and heads are read beside the models, and say what the models say", async () => {
  await using stack = new AsyncDisposableStack();
  const { replicas, clock, collection } = await openReplicas(stack, 1);
  const [{ models }] = replicas as [(typeof replicas)[number]];
  const summaries = new Summaries(collection, DEFAULT_DURATIONS);
  for (const digest of ["a", "b", "c"]) {
    const web = container(`c-${digest}`, digest);
    await models.ensure(web, [Section.PROCESS, Section.DNS]);
    await learn(models, web, [program("/bin/common"), program(`/bin/own-${digest}`)], clock.now());
  }
  const found = await summaries.find({ orderBy: "updateMs", limit: 10 });
  for (const { id, revision, value } of found) {
    const stored = await collection.get(id);
    if (!stored) throw new Error("no model");
    const { transitions: _, staticAnalysis: __, ...shown } = toModel(stored, DEFAULT_DURATIONS, { hasItems: false });
    expect(revision).toBe(stored.revision);
    expect({ ...value, transitions: [] }).toEqual({ ...shown, transitions: [] });
    expect(value.sections.map(({ itemCount }) => itemCount)).toEqual([2, 0]);
  }
  const heads = await Array.fromAsync(summaries.heads((key) => `models.${key}`));
  const bodies = await Promise.all(found.map(async ({ id }) => (await collection.get(id))?.value.policy ?? ""));
  const digests = bodies.map((body) => createHash("sha256").update(Buffer.from(body, "base64")).digest("hex"));
  expect(heads.map(({ digest }) => digest).sort()).toEqual(digests.sort());
});

test("a node that is not heard of for a lease has lost its containers, one that is has not", async () => {
  await using stack = new AsyncDisposableStack();
  const { fleet, clock } = await openReplicas(stack, 0);
  for (const nodeId of ["quiet", "lost"]) {
    await fleet.hello(create(AgentHelloSchema, { nodeId, agentRunId: nodeId }), async () => {});
    await fleet.presence({ container: container("c1", "a", nodeId), isRunning: true } as never);
  }
  await clock.advance(LEASE_MS - 1_000);
  await fleet.touch("quiet");
  await clock.advance(2_000);
  const forgotten: string[] = [];
  await fleet.endLost(LEASE_MS, async ({ nodeId }) => void forgotten.push(nodeId));
  expect(forgotten).toEqual(["lost"]);
  await fleet.endLost(LEASE_MS, async ({ nodeId }) => void forgotten.push(nodeId));
  expect(forgotten).toEqual(["lost"]);
});

test("the digest after begins with the items of the one before, where a setting asks for it", async () => {
  await using stack = new AsyncDisposableStack();
  const { replicas, clock, collection } = await openReplicas(stack, 1, true);
  const { models } = replicas[0] as (typeof replicas)[number];
  const name = create(FactSchema, { kind: { case: "domain", value: { name: "db.example", recordType: 1 } } });
  await models.ensure(container("c1", "a"), [Section.PROCESS, Section.DNS]);
  await learn(models, container("c1", "a"), [program("/bin/a"), name], clock.now());
  await clock.advance(1_000);
  await models.ensure(container("c2", "b"), [Section.PROCESS]);
  const after = (await collection.get(container("c2", "b").modelKey))?.value;
  expect(after?.inheritedFrom).toBe(container("c1", "a").modelKey);
  expect(Object.keys(after?.sections[0]?.items ?? {})).toEqual([factId(program("/bin/a"))]);
  // A section that comes into use later begins with its own, and what the others have learned since stays theirs.
  await learn(models, container("c1", "a"), [program("/bin/later")], clock.now());
  await models.ensure(container("c3", "b"), [Section.PROCESS, Section.DNS]);
  const sections = (await collection.get(container("c2", "b").modelKey))?.value.sections ?? [];
  expect(sections.map(({ items }) => Object.keys(items))).toEqual([[factId(program("/bin/a"))], [factId(name)]]);
  expect(sections[1]?.items[factId(name)]).toMatchObject({ count: 0, reason: expect.stringContaining("carried over") });
});

test("a section that comes into use later begins with what the analysis found for it", async () => {
  await using stack = new AsyncDisposableStack();
  const { replicas, clock, collection } = await openReplicas(stack, 1);
  const { models } = replicas[0] as (typeof replicas)[number];
  const web = container("c1");
  await models.ensure(web, []);
  const items = [{ fact: program("/bin/web"), reason: "the configuration" }];
  await models.change(web.modelKey, (r) => applyAnalysis(r, create(StaticAnalysisSchema, { items }), clock.now()));
  await models.ensure(web, [Section.PROCESS]);
  const [section] = (await collection.get(web.modelKey))?.value.sections ?? [];
  expect(Object.keys(section?.items ?? {})).toEqual([factId(program("/bin/web"))]);
});

test("a lease is one replica's at a time, and a clock that was ahead does not keep it", async () => {
  await using stack = new AsyncDisposableStack();
  const { store, clock } = await openReplicas(stack, 0);
  const leases = await store.collection(LEASES);
  const [one, two] = [new Lease(leases, "clock", clock), new Lease(leases, "clock", clock)];
  expect(await one.hold(5_000)).toBe(true);
  expect(await two.hold(5_000)).toBe(false);
  await clock.advance(4_000);
  expect(await one.hold(5_000)).toBe(true);
  await clock.advance(5_001);
  expect(await two.hold(5_000)).toBe(true);
  await two.release();
  expect(await one.hold(5_000)).toBe(true);
  const ahead = new Lease(leases, "clock", new ManualClock(clock.now() + 3_600_000));
  expect(await ahead.hold(5_000)).toBe(true);
  expect(await two.hold(5_000)).toBe(true);
});
