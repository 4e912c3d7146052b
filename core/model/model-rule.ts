import { create } from "@bufbuild/protobuf";
import type { Fact, Model } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { PortRangeSchema, type Rule, RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { EPHEMERAL_FIRST, EPHEMERAL_LAST, hasWildcard } from "./item-pattern.ts";

type Case = NonNullable<Fact["kind"]["case"]>;
type Value<C extends Case> = Extract<Fact["kind"], { case: C }>["value"];

/** Values of the facts of one kind. */
export function valuesOf<C extends Case>(facts: readonly Fact[], wanted: C): Value<C>[] {
  return facts.flatMap(({ kind }) => (kind.case === wanted ? [kind.value as Value<C>] : []));
}

function range(port: number) {
  const ends = port === 0 ? { first: EPHEMERAL_FIRST, last: EPHEMERAL_LAST } : { first: port, last: port };
  return create(PortRangeSchema, ends);
}

function unique(texts: readonly string[]): string[] {
  return [...new Set(texts)].sort();
}

/** Rules know domains by name or by everything below one: a family becomes the part of its name that is fixed. */
function domainPattern({ name, isPattern }: Value<"domain">): string {
  if (!isPattern) return name;
  const labels = name.split(".");
  return `*.${labels.slice(labels.findLastIndex((label) => hasWildcard(label)) + 1).join(".")}`;
}

/** A script by its path, a program that is run under another name than its own by that name: a path would allow all its names. */
function processEntry({ path, name }: Value<"process">): string {
  return name.includes("/") || !path.endsWith(`/${name}`) ? name : path;
}

/**
 * A model's allowed items as the allowed lists of a rule, for the image in its namespace. A rule is wider than the model:
 * it knows programs by path and not by content, folders without who writes in them, and ports without their transport.
 */
export function ruleOfModel(model: Model, facts: readonly Fact[], name: string, effect: Effect): Rule {
  const { namespace = "", cluster = "" } = model.scope ?? {};
  const ports = (numbers: readonly number[]) => [...new Set(numbers)].sort((a, b) => a - b).map(range);
  const outbound = valuesOf(facts, "outbound");
  const files = valuesOf(facts, "file");
  const programs = valuesOf(facts, "process").map(processEntry);
  return create(RuleSchema, {
    name,
    description: `copied from model ${model.modelKey}`,
    scope: {
      images: model.imageName === "" ? [] : [model.imageName],
      namespaces: namespace === "" ? [] : [namespace],
      clusters: cluster === "" ? [] : [cluster],
    },
    process: { effect, allowed: unique(programs).map((process) => ({ process })) },
    network: {
      effect,
      allowed: {
        listeningPorts: ports(valuesOf(facts, "listen").map(({ port }) => port)),
        outboundPorts: ports(outbound.filter(({ address }) => address === "").map(({ port }) => port)),
        outboundAddresses: unique(outbound.map(({ address }) => address).filter((address) => address !== "")),
      },
      detectors: { raw_socket: {} },
    },
    dns: { effect, allowed: unique(valuesOf(facts, "domain").map(domainPattern)) },
    filesystem: {
      effect,
      allowed: unique(
        files.map(({ path, isExecutable }) =>
          isExecutable ? path : `${path === "/" ? "" : path.replaceAll("?", "*")}/*`,
        ),
      ),
    },
    syscall: { effect: Effect.ALERT, allowed: unique(valuesOf(facts, "syscall").map((fact) => fact.name)) },
  });
}
