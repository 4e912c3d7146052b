import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { ContentState } from "#gen/gabion/event/v1/event_pb.ts";
import { FactSchema, LearningState as S } from "#gen/gabion/model/v1/model_pb.ts";
import { estimateCompleteness, poissonUpper } from "./completeness.ts";
import { factId } from "./fact.ts";
import { modelKey } from "./key.ts";
import { DEFAULT_DURATIONS, type LifeEvent, newLife, type SectionLife, stepLife } from "./lifecycle.ts";

const HOUR = 3_600_000;

function play(events: readonly LifeEvent[], from: SectionLife = newLife()): SectionLife {
  return events.reduce((life, event) => stepLife(life, event, DEFAULT_DURATIONS).life, from);
}

test("images stay in learning for one hour of cumulative observed time, in any slices", () => {
  const slices: LifeEvent[] = Array.from({ length: 59 }, () => ({ kind: "observed", ms: HOUR / 60 }));
  expect(play(slices).state).toBe(S.LEARNING);
  expect(play([...slices, { kind: "observed", ms: HOUR / 60 }]).state).toBe(S.DRY_RUN);
});

test("wall-clock time alone never ends learning", () => {
  expect(play([{ kind: "elapsed", ms: 100 * HOUR }]).state).toBe(S.LEARNING);
});

test("24 hours of dry run without a deviation make the model active", () => {
  const life = play([
    { kind: "observed", ms: HOUR },
    { kind: "elapsed", ms: 24 * HOUR - 1 },
  ]);
  expect(life.state).toBe(S.DRY_RUN);
  expect(play([{ kind: "elapsed", ms: 1 }], life).state).toBe(S.ACTIVE);
});

test("a deviation in the dry run brings learning back for 24 hours, and there is no second dry run", () => {
  const life = play([{ kind: "observed", ms: HOUR }, { kind: "deviation" }]);
  expect(life.state).toBe(S.EXTENDED_LEARNING);
  expect(play([{ kind: "elapsed", ms: 24 * HOUR }], life).state).toBe(S.ACTIVE);
});

test("a deviation in active state changes nothing", () => {
  const active = { ...newLife(), state: S.ACTIVE };
  expect(play([{ kind: "deviation" }], active).state).toBe(S.ACTIVE);
});

test("manual learning has no limit of time and ends when a person stops it", () => {
  const life = play([
    { kind: "start_manual" },
    { kind: "observed", ms: 900 * HOUR },
    { kind: "elapsed", ms: 900 * HOUR },
  ]);
  expect(life.state).toBe(S.MANUAL_LEARNING);
  expect(play([{ kind: "stop_manual" }], life).state).toBe(S.ACTIVE);
});

test("relearning takes one hour of observed time and leads to active", () => {
  const life = play([{ kind: "relearn" }], { ...newLife(), state: S.ACTIVE });
  expect(life.state).toBe(S.RELEARNING);
  expect(play([{ kind: "observed", ms: HOUR }], life).state).toBe(S.ACTIVE);
});

test("replicas share a model; another namespace, workload, cluster or digest has its own", () => {
  const base = { cluster: "c", namespace: "n", workload: "Deployment/w", imageDigest: "sha256:a" };
  const others = [{ cluster: "d" }, { namespace: "m" }, { workload: "Deployment/v" }, { imageDigest: "sha256:b" }];
  const keys = [base, ...others.map((o) => ({ ...base, ...o }))].map(modelKey);
  expect(new Set(keys).size).toBe(5);
  expect(modelKey({ ...base })).toBe(keys[0]);
  expect(modelKey({ ...base, cluster: "cn", namespace: "" })).not.toBe(
    modelKey({ ...base, cluster: "c", namespace: "n" }),
  );
});

function process(path: string, name: string, contentState: ContentState, sha256 = "", parentPath = "") {
  return create(FactSchema, { kind: { case: "process", value: { path, name, contentState, sha256, parentPath } } });
}

test("a process is identified by path, name and content together, not by its parent", () => {
  const base = process("/bin/busybox", "ls", ContentState.UNCHANGED);
  expect(factId(process("/bin/busybox", "ls", ContentState.UNCHANGED, "", "/bin/sh"))).toBe(factId(base));
  expect(factId(process("/bin/busybox", "nc", ContentState.UNCHANGED))).not.toBe(factId(base));
  expect(factId(process("/bin/busybox", "ls", ContentState.CHANGED, "a".repeat(64)))).not.toBe(factId(base));
});

test("the Poisson bound is that of the tables", () => {
  // Exact 95 % upper limits for counts of 0, 1, 5 and 20 (Ulm 1990).
  for (const [count, exact] of [
    [0, 3.689],
    [1, 5.572],
    [5, 11.668],
    [20, 30.888],
  ] as const) {
    expect(poissonUpper(count)).toBeCloseTo(exact, 1);
  }
});

test("completeness is not known without units, and comes with its uncertainty", () => {
  expect(estimateCompleteness(0, 0)).toBeUndefined();
  const estimate = estimateCompleteness(288, 2);
  expect(estimate?.expectedNewPerDay).toBeCloseTo(2);
  expect(estimate?.expectedNewPerDayUpper).toBeCloseTo(7.22, 1);
});
