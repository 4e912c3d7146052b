import { create, toJson } from "@bufbuild/protobuf";
import type { Command } from "commander";
import { stringify } from "yaml";
import { enumText } from "#core/text/enum-text.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { type Rule, RuleSchema, type RuleWarning, type Scope } from "#gen/gabion/rule/v1/rule_pb.ts";
import { type RuleChange, RuleChangeSchema } from "#gen/gabion/rule/v1/rule_service_pb.ts";
import { CommandError, type Connection } from "./connection.ts";
import { type Column, print, printOne, printRows, timeText } from "./output.ts";
import { readRule } from "./rule-file.ts";
import { withConnection } from "./shared.ts";

function scopeText(scope: Scope | undefined): string {
  const parts = Object.entries({
    image: scope?.images,
    container: scope?.containers,
    namespace: scope?.namespaces,
    cluster: scope?.clusters,
    host: scope?.hosts,
    label: scope?.labels,
  }).flatMap(([name, list]) => (list && list.length > 0 ? [`${name} ${list.join(",")}`] : []));
  return parts.length === 0 ? "all" : parts.join("; ");
}

function effectText(section: { effect: Effect } | undefined): string {
  return section ? enumText(Effect, section.effect) : "disable";
}

const COLUMNS: readonly Column<Rule>[] = [
  { title: "RULE", of: (r) => r.name },
  { title: "APPLIES TO", of: (r) => scopeText(r.scope), maxWidth: 50 },
  { title: "PROCESS", of: (r) => effectText(r.process) },
  { title: "NETWORK", of: (r) => effectText(r.network) },
  { title: "DNS", of: (r) => effectText(r.dns) },
  { title: "FILESYSTEM", of: (r) => effectText(r.filesystem) },
  { title: "SYSCALL", of: (r) => effectText(r.syscall) },
  { title: "STATE", of: (r) => (r.isDisabled ? "disabled" : "in use") },
  { title: "CHANGED", of: (r) => timeText(r.updateTime) },
  { title: "BY", of: (r) => r.updateBy },
];

const CHANGE_COLUMNS: readonly Column<RuleChange>[] = [
  { title: "REVISION", of: (c) => String(c.rulesetRevision) },
  { title: "TIME", of: (c) => timeText(c.changeTime) },
  { title: "BY", of: (c) => c.changeBy },
  { title: "ACTION", of: (c) => c.action },
  { title: "RULE", of: (c) => c.after?.name ?? c.before?.name ?? "" },
];

/** The rule of a name or identity. */
export async function findRule({ rules }: Connection, rule: string): Promise<Rule> {
  const found = await rules.getRule({ rule });
  if (!found.rule) throw new CommandError(`there is no rule \`${rule}\`; see \`gabion rules list\``);
  return found.rule;
}

/** Warnings go to standard error: standard output carries answers only. */
export function tellWarnings(warnings: readonly RuleWarning[]): void {
  for (const { path, message } of warnings) process.stderr.write(`warning: ${path}: ${message}\n`);
}

function addReading(rules: Command): void {
  rules
    .command("list", { isDefault: true })
    .description("list rules in the order in which they are tried")
    .action(
      withConnection(async ({ rules: client }, { output }) => {
        const { rules: found } = await client.listRules({ pageSize: 1000 });
        const { hits } = await client.listRuleHits({});
        const byId = new Map(hits.map((hit) => [hit.ruleId, hit] as const));
        const used = [
          { title: "HITS", of: ({ ruleId }: Rule) => String(byId.get(ruleId)?.count ?? 0) },
          { title: "LAST USE", of: ({ ruleId }: Rule) => timeText(byId.get(ruleId)?.lastTime) },
        ];
        printRows(output, RuleSchema, found, [...COLUMNS, ...used]);
      }),
    );
  rules
    .command("get <rule>")
    .description("show a rule by name or id; the YAML can be changed and given to `rules update`")
    .action(
      withConnection(async (connection, { output }, wanted: string) => {
        const rule = await findRule(connection, wanted);
        printOne(output, RuleSchema, rule, (r) => stringify(toJson(RuleSchema, r)).trimEnd());
      }),
    );
  rules
    .command("history")
    .description("list changes, newest first")
    .action(
      withConnection(async ({ rules: client }, { output }) => {
        const { changes } = await client.listRuleChanges({ pageSize: 100 });
        printRows(output, RuleChangeSchema, changes, CHANGE_COLUMNS);
      }),
    );
}

function addWriting(rules: Command): void {
  rules
    .command("create")
    .description("add a rule from a YAML or JSON file, by default before all others")
    .requiredOption("-f, --file <file>", "the rule; - for standard input")
    .option("--position <n>", "place from 0", Number)
    .option("--validate-only", "check, do not save")
    .action(
      withConnection(async ({ rules: client }, shared) => {
        const {
          file,
          position,
          validateOnly = false,
        } = shared as unknown as { file: string; position?: number; validateOnly?: boolean };
        const request = { rule: readRule(file), validateOnly, ...(position === undefined ? {} : { position }) };
        const { rule, warnings } = await client.createRule(request);
        tellWarnings(warnings);
        if (rule)
          printOne(shared.output, RuleSchema, rule, (r) =>
            validateOnly ? `rule \`${r.name}\` is valid` : `rule \`${r.name}\` created`,
          );
      }),
    );
  rules
    .command("update")
    .description("replace a rule with the file's, which carries rule id and etag")
    .requiredOption("-f, --file <file>", "the rule; - for standard input")
    .option("--validate-only", "check, do not save")
    .action(
      withConnection(async ({ rules: client }, shared) => {
        const { file, validateOnly = false } = shared as unknown as { file: string; validateOnly?: boolean };
        const { rule, warnings } = await client.updateRule({ rule: readRule(file), validateOnly });
        tellWarnings(warnings);
        if (rule) printOne(shared.output, RuleSchema, rule, (r) => `rule \`${r.name}\` updated`);
      }),
    );
}

function addSwitching(rules: Command): void {
  for (const [name, isDisabled] of [
    ["enable", false],
    ["disable", true],
  ] as const) {
    rules
      .command(`${name} <rule>`)
      .description(isDisabled ? "pass the rule over" : "use the rule again")
      .action(
        withConnection(async (connection, { output }, wanted: string) => {
          const before = await findRule(connection, wanted);
          const { rule } = await connection.rules.updateRule({ rule: create(RuleSchema, { ...before, isDisabled }) });
          if (rule) printOne(output, RuleSchema, rule, (r) => `rule \`${r.name}\` ${name}d`);
        }),
      );
  }
  rules
    .command("move <rule> <position>")
    .description("move a rule to another place, counted from 0")
    .action(
      withConnection(async (connection, _, wanted: string, position: string) => {
        const { ruleId, etag, name } = await findRule(connection, wanted);
        if (!/^\d+$/.test(position)) throw new CommandError(`position \`${position}\` must be a whole number from 0`);
        await connection.rules.moveRule({ ruleId, etag, position: Number(position) });
        print(`rule \`${name}\` is at ${position}`);
      }),
    );
  rules
    .command("delete <rule>")
    .description("remove a rule")
    .action(
      withConnection(async (connection, _, wanted: string) => {
        const { ruleId, etag, name } = await findRule(connection, wanted);
        await connection.rules.deleteRule({ ruleId, etag });
        print(`rule \`${name}\` deleted`);
      }),
    );
}

/** Adds what lists and changes single rules. */
export function addRuleCommands(rules: Command): void {
  addReading(rules);
  addWriting(rules);
  addSwitching(rules);
}
