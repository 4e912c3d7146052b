import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { ContentState, Section, Transport } from "#gen/gabion/event/v1/event_pb.ts";
import { FactSchema } from "#gen/gabion/model/v1/model_pb.ts";
import { ContainerSchema } from "#gen/gabion/workload/v1/workload_pb.ts";
import { ManualClock } from "#lib/flow/clock.ts";
import type { IdentifiedContainer } from "../containers/identify.ts";
import { WatchedContainer } from "../containers/watched-container.ts";
import { Learner, type Observation } from "./learner.ts";

const message = create(ContainerSchema, { containerId: "c1", modelKey: `m-${"0".repeat(32)}` });
const note = { isDeviation: false, isHeld: false, detector: "" };

function fact(path: string, parentPath = "") {
  return create(FactSchema, {
    kind: { case: "process", value: { path, name: path, contentState: ContentState.UNCHANGED, parentPath } },
  });
}

function setUp() {
  const clock = new ManualClock(1_500_000_000_000);
  const sent: Observation[] = [];
  const container = new WatchedContainer({ message } as IdentifiedContainer, { id: 1n, path: "/c1" }, 0);
  container.span(Section.PROCESS).beginMs = clock.now();
  return { clock, sent, container, learner: new Learner(clock, (observation) => sent.push(observation)) };
}

const seen = (sent: readonly Observation[]) => sent.flatMap((o) => (o.kind === "seen" ? [o.value] : []));

test("a fact is sent once and counted from then on", async () => {
  const { clock, sent, container, learner } = setUp();
  for (let i = 0; i < 5; i += 1) learner.observe(container, fact("/a"), note);
  await clock.advance(10);
  learner.flush(container, Section.PROCESS);
  expect(sent.map(({ kind }) => kind)).toEqual(["fact", "seen", "span"]);
  expect(seen(sent)[0]).toMatchObject({ counts: [5], isFirst: [true], isFirstPart: true });
});

test("a known program is sent again with each new parent, and once with each", () => {
  const { sent, container, learner } = setUp();
  for (const parent of ["/sh", "/init", "/sh", "/init"]) learner.observe(container, fact("/a", parent), note);
  const parents = sent.flatMap((o) => (o.kind === "fact" && o.value.fact ? [o.value.fact.kind.value] : []));
  expect(parents).toMatchObject([{ parentPath: "/sh" }, { parentPath: "/init" }]);
});

test("a flood of facts in one section leaves the others room", () => {
  const { sent, container, learner } = setUp();
  const value = (port: number) => ({ transport: Transport.UDP, port, address: "" });
  for (let i = 0; i < 20_500; i += 1) {
    const kind = { case: "outbound" as const, value: { ...value(i % 65_536), address: `10.0.0.${i % 7}` } };
    learner.observe(container, create(FactSchema, { kind }), note);
  }
  learner.observe(container, fact("/a"), note);
  const facts = sent.filter(({ kind }) => kind === "fact");
  expect(facts).toHaveLength(20_001);
});

test("parts of one unit add up, and the next unit begins anew without losing the last part of the one before", async () => {
  const { clock, sent, container, learner } = setUp();
  learner.observe(container, fact("/a"), note);
  learner.flush(container, Section.PROCESS);
  learner.observe(container, fact("/a"), note);
  learner.observe(container, fact("/b"), note);
  await clock.advance(300_000);
  learner.observe(container, fact("/a"), note);
  learner.flush(container, Section.PROCESS);
  const units = seen(sent);
  expect(units.map(({ counts }) => counts)).toEqual([[1], [1, 1], [1]]);
  expect(units.map(({ isFirst }) => isFirst)).toEqual([[true], [false, true], [true]]);
  expect(units.map(({ isFirstPart }) => isFirstPart)).toEqual([true, false, true]);
  expect(new Set(units.map(({ unitIndex }) => unitIndex)).size).toBe(2);
});

test("a span carries the loss since the one before", async () => {
  const { clock, sent, container, learner } = setUp();
  container.span(Section.PROCESS).lost = 7n;
  await clock.advance(1_000);
  learner.flush(container, Section.PROCESS);
  await clock.advance(1_000);
  learner.flush(container, Section.PROCESS);
  const spans = sent.flatMap((o) => (o.kind === "span" ? [o.value.lostEventCount] : []));
  expect(spans).toEqual([7n, 0n]);
});
