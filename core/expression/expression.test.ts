import { readFileSync } from "node:fs";
import { create, fromJson, type JsonValue } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { EventSchema } from "#gen/gabion/event/v1/event_pb.ts";
import { ContainerSchema } from "#gen/gabion/workload/v1/workload_pb.ts";
import { COST_MAX, type CompiledExpression, type Expression, ExpressionLanguage } from "./expression.ts";

interface Golden {
  readonly events: Record<string, JsonValue>;
  readonly true: readonly (readonly [expression: string, event: string, answer: boolean])[];
  readonly errors: readonly (readonly [expression: string, event: string, error: string])[];
  readonly faults: readonly (readonly [expression: string, place: string, message: string])[];
  readonly objects: readonly (readonly [expression: string, objects: string[] | null])[];
}

const golden = JSON.parse(readFileSync(new URL("testdata/expressions.json", import.meta.url), "utf8")) as Golden;
const language = new ExpressionLanguage();
const container = create(ContainerSchema, {
  name: "web",
  labels: { tier: "front" },
  modelScope: { namespace: "shop" },
});

function compile(text: string): Expression {
  const { expression, faults } = language.compile(text) as { expression?: Expression; faults?: unknown };
  expect(faults).toBeUndefined();
  return expression as Expression;
}

function faultsOf(compiled: CompiledExpression) {
  return "faults" in compiled ? (compiled.faults ?? []) : [];
}

function eventNamed(name: string) {
  return fromJson(EventSchema, golden.events[name] as JsonValue);
}

test.each(golden.true)("%s of %s: %s", (text, event, answer) => {
  expect(compile(text).isTrue(eventNamed(event), container)).toBe(answer);
});

test.each(golden.errors)("%s of %s cannot be told: %s", (text, event, error) => {
  expect(compile(text).isTrue(eventNamed(event), container)).toMatchObject({ error: expect.stringContaining(error) });
});

test.each(golden.faults)("%s is refused at %s: %s", (text, place, message) => {
  const [first] = faultsOf(language.compile(text));
  expect(`${first?.line}:${first?.column} ${first?.message}`).toBe(`${place} ${message}`);
});

test.each(golden.objects)("%s comes down to %j", (text, objects) => {
  const found = compile(text).objects?.map((object) => `${object.kind} ${object.text}`);
  expect(found ?? null).toEqual(objects);
});

test("all faults of an expression are told at once", () => {
  const faults = faultsOf(language.compile("event.exec.pth == 1 &&\n  event.connect.port.startsWith('4')"));
  expect(faults).toMatchObject([
    { line: 1, column: 11 },
    { line: 2, column: 21 },
  ]);
});

test("it is asked about the kinds that it names, or about all that are judged", () => {
  expect([...compile("event.exec.is_script || event.connect.port == 1").kinds].sort()).toEqual(["connect", "exec"]);
  const all = compile("container.name == 'web'").kinds;
  expect(all.size).toBe(9);
  expect(all.has("exit")).toBe(false);
});

test("lists within lists cost as much as both may hold, and too much is refused", () => {
  const once = compile("event.actor.args.exists(a, a.contains('x'))").cost;
  const twice = compile("event.ancestors.exists(p, p.args.exists(a, a.contains('x')))").cost;
  expect(once).toBeGreaterThan(64 * 10);
  expect(twice).toBeGreaterThan(once * 15);
  expect(twice).toBeLessThan(COST_MAX);
});
