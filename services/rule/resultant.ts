import { create } from "@bufbuild/protobuf";
import { factText } from "#core/model/fact-text.ts";
import { SECTIONS } from "#core/policy/container-policy.ts";
import { enumText } from "#core/text/enum-text.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { ModelPolicy } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect, Reason, type ResultantPolicy, ResultantPolicySchema } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { Rule } from "#gen/gabion/rule/v1/rule_pb.ts";
import { entryNames } from "./hits.ts";

const ENTRIES_MAX = 20_000;

const SOURCES = { denied: Reason.DENIED_LIST, allowed: Reason.ALLOWED_LIST } as const;

/** Entries of a section's lists; denied ones come first, because they win. */
function listed(names: readonly string[], section: Section) {
  return (["denied", "allowed"] as const).flatMap((list) => {
    const begin = `${enumText(Section, section)}.${list}: `;
    const own = names.filter((name) => name.startsWith(begin));
    return own.map((name) => ({
      object: name.slice(begin.length),
      source: SOURCES[list],
      isAllowed: list === "allowed",
    }));
  });
}

/** Model + allowed − denied, section by section. */
export function resultantOf(rule: Rule | undefined, model: ModelPolicy | undefined, modelKey: string): ResultantPolicy {
  const names = rule ? entryNames(rule) : [];
  const effects: Partial<Record<Section, Effect>> = {
    [Section.PROCESS]: rule?.process?.effect ?? Effect.DISABLE,
    [Section.NETWORK]: rule?.network?.effect ?? Effect.DISABLE,
    [Section.DNS]: rule?.dns?.effect ?? Effect.DISABLE,
    [Section.FILESYSTEM]: rule?.filesystem?.effect ?? Effect.DISABLE,
    [Section.SYSCALL]: rule?.syscall?.effect ?? Effect.DISABLE,
  };
  const sections = SECTIONS.map((section) => {
    const facts = model?.sections.find((each) => each.section === section)?.facts ?? [];
    const learned = facts.map((fact) => ({ object: factText(fact), source: Reason.MODEL, isAllowed: true }));
    const entries = [...listed(names, section), ...learned].slice(0, ENTRIES_MAX);
    return { section, effect: effects[section] ?? Effect.DISABLE, entries };
  });
  return create(ResultantPolicySchema, { ruleId: rule?.ruleId ?? "", ruleName: rule?.name ?? "", modelKey, sections });
}
