import { create } from "@bufbuild/protobuf";
import type { Command } from "commander";
import { diffLines } from "diff";
import { plainRule } from "#core/policy/plain-rule.ts";
import { type Rule, RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import type { RuleChange, RuleStep } from "#gen/gabion/rule/v1/rule_service_pb.ts";
import { CommandError, type Connection } from "./connection.ts";
import { print, printOne, timeText } from "./output.ts";
import { readRules, rulesText, ruleText } from "./rule-file.ts";
import { findRule, tellWarnings } from "./rules.ts";
import { withConnection } from "./shared.ts";

const PAGE = 1_000;

/** All rules in their order. */
export async function allRules({ rules: client }: Connection): Promise<{ rules: Rule[]; revision: bigint }> {
  const rules: Rule[] = [];
  for (let pageToken = ""; ; ) {
    const page = await client.listRules({ pageSize: PAGE, pageToken });
    rules.push(...page.rules);
    if (page.nextPageToken === "") return { rules, revision: page.rulesetRevision };
    pageToken = page.nextPageToken;
  }
}

/** Lines that two texts differ in: what is only in the first with `-`, what is only in the second with `+`. */
function lineDifference(before: string, after: string): string[] {
  return diffLines(before, after).flatMap(({ added, removed, value }) => {
    const mark = added ? "+" : "-";
    return added || removed
      ? value
          .trimEnd()
          .split("\n")
          .map((line) => `    ${mark} ${line}`)
      : [];
  });
}

/** Lines of a rule that are compared at most. */
const COMPARED_MAX = 2_000;

function difference(before: Rule | undefined, after: Rule | undefined): string[] {
  const text = (rule: Rule | undefined) => (rule ? `${ruleText(plainRule(rule))}\n` : "");
  const [a, b] = [text(before), text(after)];
  const isLong = [a, b].some((each) => each.split("\n").length > COMPARED_MAX);
  return isLong ? ["    (too long to compare)"] : lineDifference(a, b);
}

function stepLines({ action, before, after, positionBefore, positionAfter }: RuleStep): string[] {
  const name = `\`${after?.name ?? before?.name ?? ""}\``;
  const places = {
    create: `at ${positionAfter}`,
    delete: `from ${positionBefore}`,
    move: `from ${positionBefore} to ${positionAfter}`,
  };
  const where = places[action as "create"] ?? `at ${positionAfter}`;
  const isContent = action !== "move";
  return [`${action} ${name} ${where}`, ...(isContent ? difference(before, after) : [])];
}

function printSteps(steps: readonly RuleStep[], done: string): void {
  if (steps.length === 0) print("nothing to do: the rules are so already");
  else print([...steps.flatMap(stepLines), done].join("\n"));
}

/** The set with some rules in the places of those of their names, and new ones before all others. */
function mergedWith(rules: readonly Rule[], imported: readonly Rule[]): Rule[] {
  const known = new Set(rules.map(({ name }) => name));
  const byName = new Map(imported.map((rule) => [rule.name, rule] as const));
  return [
    ...imported.filter(({ name }) => !known.has(name)),
    ...rules.map((rule) => byName.get(rule.name) ?? plainRule(rule)),
  ];
}

async function applySet(
  { rules: client }: Connection,
  rules: Rule[],
  revision: bigint,
  isPlan: boolean,
): Promise<void> {
  const plan = await client.applyRules({ rules, rulesetRevision: revision, validateOnly: true });
  tellWarnings(plan.warnings);
  if (isPlan || plan.steps.length === 0) {
    printSteps(plan.steps, "planned, not saved");
    return;
  }
  const done = await client.applyRules({ rules, rulesetRevision: plan.rulesetRevision });
  printSteps(done.steps, `saved as revision ${done.rulesetRevision}`);
}

interface FileOptions {
  readonly file: string;
  readonly plan?: boolean;
}

function addFiles(rules: Command): void {
  rules
    .command("export")
    .description("print all rules as a file for `rules apply`; --output json for JSON")
    .action(
      withConnection(async (connection, { output }) => {
        print(rulesText((await allRules(connection)).rules, output === "json"));
      }),
    );
  rules
    .command("apply")
    .description("make the rules those of a file, as one change; shows what it does")
    .requiredOption("-f, --file <file>", "the rules; - for standard input")
    .option("--plan", "show, do not save")
    .action(
      withConnection(async (connection, shared) => {
        const { file, plan = false } = shared as unknown as FileOptions;
        await applySet(connection, readRules(file), 0n, plan);
      }),
    );
  rules
    .command("import")
    .description("add the rules of a file before all others, or in the places of those of their names, as one change")
    .requiredOption("-f, --file <file>", "the rules; - for standard input")
    .option("--plan", "show, do not save")
    .action(
      withConnection(async (connection, shared) => {
        const { file, plan = false } = shared as unknown as FileOptions;
        const { rules: saved, revision } = await allRules(connection);
        await applySet(connection, mergedWith(saved, readRules(file)), revision, plan);
      }),
    );
}

function changeText(change: RuleChange): string {
  const { rulesetRevision, changeTime, changeBy, action, before, after, steps } = change;
  const head = `revision ${rulesetRevision}: ${action} by ${changeBy} at ${timeText(changeTime)}`;
  const lines = steps.length > 0 ? steps.flatMap(stepLines) : difference(before, after);
  return [head, ...lines].join("\n");
}

function addHistory(rules: Command): void {
  rules
    .command("diff <revision>")
    .description("show what the change that made a revision changed")
    .action(
      withConnection(async ({ rules: client }, _, revision: string) => {
        for (let pageToken = ""; ; ) {
          const page = await client.listRuleChanges({ pageSize: PAGE, pageToken });
          const found = page.changes.find((change) => String(change.rulesetRevision) === revision);
          if (found) {
            print(changeText(found));
            return;
          }
          pageToken = page.nextPageToken;
          if (pageToken === "")
            throw new CommandError(`no change made revision ${revision}; see \`gabion rules history\``);
        }
      }),
    );
  rules
    .command("restore <revision>")
    .description("make the rules what they were at a revision, as one change")
    .option("--rule <rule>", "this rule only, by name or id")
    .option("--plan", "show, do not save")
    .action(
      withConnection(async (connection, shared, revision: string) => {
        const { rule, plan = false } = shared as unknown as { rule?: string; plan?: boolean };
        if (!/^\d+$/.test(revision)) throw new CommandError(`revision \`${revision}\` must be a number`);
        const ruleId = rule === undefined ? "" : await idOf(connection, rule);
        const request = { rulesetRevision: BigInt(revision), ruleId, validateOnly: plan };
        const { steps, rulesetRevision } = await connection.rules.restoreRules(request);
        printSteps(steps, plan ? "planned, not saved" : `saved as revision ${rulesetRevision}`);
      }),
    );
}

/** A rule that was deleted is known by its identity only. */
async function idOf(connection: Connection, rule: string): Promise<string> {
  return rule.startsWith("r-") ? rule : (await findRule(connection, rule)).ruleId;
}

/** Adds what changes rules by files, copies and the history. */
export function addRuleSetCommands(rules: Command): void {
  addFiles(rules);
  addHistory(rules);
  rules
    .command("copy <rule> <name>")
    .description("add a copy of a rule under another name, disabled, before all others")
    .action(
      withConnection(async (connection, { output }, wanted: string, name: string) => {
        const copy = create(RuleSchema, { ...plainRule(await findRule(connection, wanted)), name, isDisabled: true });
        const { rule } = await connection.rules.createRule({ rule: copy });
        if (rule) printOne(output, RuleSchema, rule, (r) => `rule \`${r.name}\` created, disabled`);
      }),
    );
  rules
    .command("restart <rule>")
    .description("begin a rule's roll-out with the first stage")
    .action(
      withConnection(async ({ rules: client }, { output }, wanted: string) => {
        const { rule } = await client.restartRollOut({ rule: wanted });
        if (rule) printOne(output, RuleSchema, rule, (r) => `the roll-out of rule \`${r.name}\` begins anew`);
      }),
    );
}
