import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { factId } from "#core/model/fact.ts";
import { DEFAULT_DURATIONS } from "#core/model/lifecycle.ts";
import { ContentState, Section } from "#gen/gabion/event/v1/event_pb.ts";
import {
  type Fact,
  FactSchema,
  ItemSource,
  ItemStatus,
  LearningState,
  ModelHistoryKind,
  ObservedFactSchema,
  StaticAnalysisSchema,
} from "#gen/gabion/model/v1/model_pb.ts";
import type { RpcFault } from "#lib/rpc/errors.ts";
import { exportModel, parseExport } from "./export.ts";
import { withHistory } from "./history.ts";
import { applyBatch } from "./learn.ts";
import { newSection } from "./life.ts";
import { toModel } from "./message.ts";
import {
  acceptHeld,
  applyAnalysis,
  archiveNow,
  diffItems,
  importItems,
  inheritItems,
  pin,
  unfold,
} from "./operations.ts";
import type { ModelRecord } from "./record.ts";

const key = `m-${"0".repeat(32)}`;

function record(part: Partial<ModelRecord> = {}): ModelRecord {
  return {
    cluster: "",
    namespace: "",
    workload: "",
    imageDigest: `sha256:${"a".repeat(64)}`,
    imageName: "docker.io/library/web:1",
    digestSource: 0,
    sections: [newSection(Section.PROCESS, 0), newSection(Section.FILESYSTEM, 0)],
    containers: { "n1/c1": "n1", "n1/c2": "n1", "n1/c3": "n1" },
    archivedMs: null,
    countedMs: 0,
    createMs: 0,
    updateMs: 0,
    transitions: [],
    applied: {},
    policyRevision: 1,
    policy: "",
    ...part,
  };
}

const file = (path: string): Fact =>
  create(FactSchema, { kind: { case: "file", value: { path, processPath: "/app" } } });
const process = (path: string): Fact =>
  create(FactSchema, {
    kind: { case: "process", value: { path, name: path, contentState: ContentState.UNCHANGED } },
  });

let sequence = 0;
function learn(
  to: ModelRecord,
  facts: readonly Fact[],
  more: { containerId?: string; isHeld?: boolean } = {},
): ModelRecord {
  sequence += 1;
  const batch = {
    facts: facts.map((fact) =>
      create(ObservedFactSchema, {
        modelKey: key,
        fact,
        containerId: "c1",
        detector: more.isHeld ? "drift" : "",
        ...more,
      }),
    ),
    seenUnits: [],
    spans: [],
    containers: [],
  };
  return applyBatch(to, batch, { nodeId: "n1", runId: "r", sequence }, DEFAULT_DURATIONS, sequence);
}

const folders = (count: number) => Array.from({ length: count }, (_, i) => file(`/srv/req-${i}`));
const itemsOf = (model: ModelRecord, section: Section) =>
  model.sections.find((s) => s.section === section)?.items ?? {};
const idOf = (path: string) =>
  factId(
    create(FactSchema, { kind: { case: "file", value: { path, processPath: "/app", isPattern: path.includes("?") } } }),
  );
const active = (model: ModelRecord) => ({
  ...model,
  sections: model.sections.map((s) => ({ ...s, life: { ...s.life, state: LearningState.ACTIVE } })),
});

test("a family takes the place of its members, shows them and why, and takes in what comes later", () => {
  const model = learn(record(), folders(3));
  expect(Object.keys(itemsOf(model, Section.FILESYSTEM))).toEqual([idOf("/srv/req-?")]);
  const [item] = Object.values(itemsOf(model, Section.FILESYSTEM));
  expect(item).toMatchObject({ folded: ["/srv/req-0", "/srv/req-1", "/srv/req-2"], foldedCount: 3 });
  expect(item?.reason).toContain("differ in a number only");
  expect(Object.keys(itemsOf(learn(model, [file("/srv/req-99")]), Section.FILESYSTEM))).toHaveLength(1);
});

test("a family that is taken apart stays away, and what was removed keeps a family from forming", () => {
  const apart = unfold(learn(record(), folders(3)), idOf("/srv/req-?"), 9);
  const allowed = (model: ModelRecord) =>
    Object.values(itemsOf(model, Section.FILESYSTEM)).filter(({ status }) => status === ItemStatus.ALLOWED);
  expect(allowed(apart)).toHaveLength(3);
  expect(allowed(learn(apart, [file("/srv/req-3"), file("/srv/req-4")]))).toHaveLength(5);
  const two = learn(record(), folders(2));
  const removed = { ...itemsOf(two, Section.FILESYSTEM) };
  const id = idOf("/srv/req-1");
  removed[id] = { ...(removed[id] as NonNullable<(typeof removed)[string]>), status: ItemStatus.REMOVED };
  const sections = two.sections.map((s) => (s.section === Section.FILESYSTEM ? { ...s, items: removed } : s));
  expect(allowed(learn({ ...two, sections }, folders(9)))).toHaveLength(8);
});

test("a confirmed family is no part of a wider one; only families in force can be confirmed or taken apart", () => {
  const model = pin(learn(record(), folders(3)), idOf("/srv/req-?"));
  expect(Object.values(itemsOf(model, Section.FILESYSTEM))[0]?.isPinned).toBe(true);
  expect(() => pin(learn(record(), folders(1)), idOf("/srv/req-0"))).toThrow("is no family that is in force");
  expect(() => unfold(record(), "nothing", 0)).toThrow("there is no item `nothing`");
});

test("what one of many replicas does stands out", () => {
  const model = learn(
    learn(record({ containerTotal: 3 }), [process("/bin/all"), process("/bin/one")]),
    [process("/bin/all")],
    {
      containerId: "c2",
    },
  );
  const shown = toModel({ id: key, revision: 1, value: model }, DEFAULT_DURATIONS).sections[0]?.items ?? [];
  expect(shown.map(({ isSingular, containerCount }) => [containerCount, isSingular])).toEqual([
    [2, false],
    [1, true],
  ]);
});

test("held items wait for a person, who accepts them", () => {
  const model = learn(record(), [process("/tmp/x")], { isHeld: true });
  expect(toModel({ id: key, revision: 1, value: model }, DEFAULT_DURATIONS).heldCount).toBe(1);
  expect(Object.values(itemsOf(acceptHeld(model), Section.PROCESS))[0]).toMatchObject({
    status: ItemStatus.ALLOWED,
    source: ItemSource.PERSON,
  });
});

test("static items are in the model at once, once for each digest, and bring back nothing that was removed", () => {
  const analysis = create(StaticAnalysisSchema, {
    items: [{ fact: process("/bin/web"), reason: "ENTRYPOINT", contentSha256: "b".repeat(64) }],
    unresolved: ["/entry.sh:3: `$TOOL` has no known value"],
    libraries: [{ path: "/lib/libc.so.6", sha256: "c".repeat(64), neededBy: "/bin/web" }],
  });
  const model = applyAnalysis(record(), analysis, 5);
  expect(Object.values(itemsOf(model, Section.PROCESS))[0]).toMatchObject({
    source: ItemSource.STATIC,
    reason: "ENTRYPOINT",
    contentSha256: "b".repeat(64),
  });
  const shown = toModel({ id: key, revision: 1, value: model }, DEFAULT_DURATIONS).staticAnalysis;
  expect(shown).toMatchObject({ unresolved: analysis.unresolved, libraries: [{ path: "/lib/libc.so.6" }] });
  expect(applyAnalysis(model, create(StaticAnalysisSchema, { items: [{ fact: process("/bin/evil") }] }), 6)).toBe(
    model,
  );
});

test("an export reads in again, and the same model always gives the same text", () => {
  const model = learn(record(), [process("/bin/a"), process("/bin/b"), ...folders(3)]);
  const text = exportModel(model);
  const imported = importItems(record({ sections: [] }), parseExport(text, 0), 0);
  expect(JSON.parse(exportModel(imported)).sections.flatMap((s: { items: unknown[] }) => s.items)).toHaveLength(3);
  expect(exportModel(learn(record(), [...folders(3), process("/bin/b"), process("/bin/a")]))).toBe(text);
});

test.each([
  ["no JSON", "{", "is no JSON"],
  ["something else", '{"format":"other"}', "document.format: must be `gabion.model`"],
  ["another version", '{"format":"gabion.model","version":7}', "is 7; this Gabion reads version 1"],
])("an import of %s is refused", (_, document, message) => {
  expect(() => parseExport(document, 0)).toThrow(message);
});

test("a malformed import is refused whole, with every fault and its place", () => {
  const document = JSON.parse(exportModel(learn(record(), [process("/bin/a"), process("/bin/b")])));
  document.sections[0].items[0].fact = {
    process: { path: "relative", name: "x", contentState: "CONTENT_STATE_UNCHANGED" },
  };
  document.sections[0].items[1].fact = { syscall: { name: "read" } };
  try {
    parseExport(JSON.stringify(document), 0);
    expect.unreachable();
  } catch (error) {
    expect((error as RpcFault).fields.map(({ field }) => field)).toEqual([
      "document.sections[0].items[0].fact.process.path",
      "document.sections[0].items[1].fact",
    ]);
  }
});

test("items of the digest before are inherited until they are seen", () => {
  const before = learn(record(), [process("/bin/a"), process("/bin/b")]);
  const model = inheritItems(record(), before, "m-before", 3);
  expect(Object.values(itemsOf(model, Section.PROCESS)).map(({ source }) => source)).toEqual([
    ItemSource.INHERITED,
    ItemSource.INHERITED,
  ]);
  const seen = learn(model, [process("/bin/a")]);
  expect(itemsOf(seen, Section.PROCESS)[factId(process("/bin/a"))]).toMatchObject({
    source: ItemSource.BEHAVIOR,
    reason: "carried over from m-before, then seen in a running container",
  });
});

test("two models differ in what only one of them allows", () => {
  const base = learn(record(), [process("/bin/a"), process("/bin/b")]);
  const other = learn(record(), [process("/bin/b"), process("/bin/c")]);
  expect(diffItems(base, other)).toEqual({
    added: [factId(process("/bin/c"))],
    removed: [factId(process("/bin/a"))],
    commonCount: 1,
  });
});

test("a model that containers run is not archived; those of lost nodes do not count", () => {
  expect(() => archiveNow(record(), () => true, DEFAULT_DURATIONS, 7)).toThrow("3 containers run it");
  expect(archiveNow(record(), () => false, DEFAULT_DURATIONS, 7)).toMatchObject({ containers: {}, archivedMs: 7 });
});

test("the history tells of every item and every transition in order", () => {
  const first = record();
  const second = withHistory(first, learn(first, [process("/bin/a")]), 10);
  const third = withHistory(
    second,
    archiveNow(active(second), () => false, DEFAULT_DURATIONS, 20),
    20,
  );
  expect(third.history?.map(({ sequence, kind, text }) => [sequence, kind, text])).toEqual([
    [1, ModelHistoryKind.ITEM_ADDED, "`/bin/a as /bin/a` added: seen in a running container"],
    [2, ModelHistoryKind.ARCHIVE, "archived: no container runs it"],
  ]);
});

test("a section at its limit says so and takes in nothing more", () => {
  const many = Array.from({ length: 5_200 }, (_, i) => process(`/bin/p${i}`));
  const model = learn(record(), many);
  expect(Object.keys(itemsOf(model, Section.PROCESS))).toHaveLength(5_000);
  expect(model.sections[0]?.isFull).toBe(true);
  expect(withHistory(record(), model, 1).history?.at(-1)?.kind).toBe(ModelHistoryKind.FULL);
});
