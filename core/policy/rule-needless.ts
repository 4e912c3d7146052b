import type { ModelPolicy } from "#gen/gabion/model/v1/model_pb.ts";
import type { Rule } from "#gen/gabion/rule/v1/rule_pb.ts";
import { isPattern } from "../matching/pattern.ts";
import type { RuleFault } from "./rule-check.ts";

/** What a model holds, as allowed lists name it. */
function namesIn({ sections }: ModelPolicy): ReadonlySet<string> {
  const facts = sections.flatMap((section) => section.facts);
  return new Set(
    facts.flatMap(({ kind }) => {
      switch (kind.case) {
        case "process":
          return [`process ${kind.value.path}`];
        case "domain":
          return kind.value.isPattern ? [] : [`domain ${kind.value.name}`];
        case "syscall":
          return kind.value.isCompat ? [] : [`syscall ${kind.value.name}`];
        default:
          return [];
      }
    }),
  );
}

/**
 * Allowed entries that every model of a rule's containers holds already: they can be left out. Patterns may allow more than
 * models hold, and stay.
 */
export function entriesInModels(rule: Rule, models: readonly ModelPolicy[]): RuleFault[] {
  if (models.length === 0) return [];
  const known = models.map(namesIn);
  const lists = [
    [
      "process.allowed",
      "process",
      (rule.process?.allowed ?? []).map(({ process, sha256, parents }) =>
        sha256 === "" && parents.length === 0 ? process : "*",
      ),
    ],
    ["dns.allowed", "domain", rule.dns?.allowed ?? []],
    ["syscall.allowed", "syscall", rule.syscall?.allowed ?? []],
  ] as const;
  return lists.flatMap(([place, kind, texts]) =>
    texts.flatMap((text, index) => {
      const isHeld = !isPattern(text) && known.every((names) => names.has(`${kind} ${text}`));
      const message = `\`${text}\` can be left out: all ${models.length} models of its containers hold it already`;
      return isHeld ? [{ field: `${place}[${index}]`, message }] : [];
    }),
  );
}
