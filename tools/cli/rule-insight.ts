import { durationFromMs, durationMs } from "@bufbuild/protobuf/wkt";
import type { Command } from "commander";
import { enumText } from "#core/text/enum-text.ts";
import { eventText } from "#core/text/event-text.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { Delivery, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import {
  type ArmedEffect,
  CoveredContainerSchema,
  GetArmingResponseSchema,
  GetConvergenceResponseSchema,
  type NodesAtRevision,
  ResolveRuleResponseSchema,
  type RuleFinding,
  RuleFindingSchema,
  type RuleHitCount,
  RuleHitCountSchema,
  type SimulatedChange,
  type SimulatedRow,
  type SimulateRulesResponse,
  SimulateRulesResponseSchema,
} from "#gen/gabion/rule/v1/rule_service_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import { CommandError, type Connection } from "./connection.ts";
import { type Column, print, printOne, printRows, timeText, toTable } from "./output.ts";
import { readDrafts, readRule } from "./rule-file.ts";
import { withConnection } from "./shared.ts";

const UNITS: Readonly<Record<string, number>> = { m: 60_000, h: 3_600_000, d: 86_400_000 };

/** A time as `90m`, `12h` or `7d`. */
function sinceMs(text: string): number {
  const [, amount = "", unit = ""] = /^(\d+)([mhd])$/.exec(text) ?? [];
  const ms = Number(amount) * (UNITS[unit] ?? 0);
  if (ms === 0) throw new CommandError(`\`${text}\` must be a time such as 90m, 12h or 7d`);
  return ms;
}

/** The running container of a name or identity. */
export async function runningContainer({ fleet }: Connection, wanted: string): Promise<Container> {
  const found: Container[] = [];
  for (let pageToken = ""; ; ) {
    const page = await fleet.listContainers({ pageSize: 1_000, pageToken });
    found.push(...page.containers.filter(({ containerId, name }) => containerId === wanted || name === wanted));
    pageToken = page.nextPageToken;
    if (pageToken === "") break;
  }
  const [container, other] = found;
  if (!container) throw new CommandError(`no container \`${wanted}\` runs; see \`gabion nodes containers\``);
  if (other)
    throw new CommandError(`\`${wanted}\` is several containers: ${found.map((c) => c.containerId).join(", ")}`);
  return container;
}

function nodesText({
  nodeIds,
  nodeCount,
}: {
  readonly nodeIds: readonly string[];
  readonly nodeCount: number;
}): string {
  return nodeIds.length < nodeCount ? `${nodeIds.join(", ")}, …` : nodeIds.join(", ");
}

const REVISION_COLUMNS: readonly Column<NodesAtRevision>[] = [
  { title: "REVISION", of: (r) => (r.rulesetRevision === 0n ? "none yet" : String(r.rulesetRevision)) },
  { title: "NODES", of: (r) => String(r.nodeCount) },
  { title: "NOT CONNECTED", of: (r) => String(r.disconnectedCount) },
  { title: "WHICH", of: nodesText },
];

const ARMED_COLUMNS: readonly Column<ArmedEffect>[] = [
  { title: "SECTION", of: (a) => enumText(Section, a.section) },
  { title: "EFFECT", of: (a) => enumText(Effect, a.effect) },
  { title: "DELIVERED", of: (a) => enumText(Delivery, a.delivery).replaceAll("_", " ") },
  { title: "NODES", of: (a) => `${a.nodeCount}: ${nodesText(a)}`, maxWidth: 60 },
  { title: "HOW", of: (a) => a.notes.join("; "), maxWidth: 110 },
];

const HIT_COLUMNS: readonly Column<RuleHitCount>[] = [
  { title: "RULE", of: (h) => h.ruleName },
  { title: "ENTRY", of: (h) => h.entry || "(the rule)", maxWidth: 80 },
  { title: "HITS", of: (h) => String(h.count) },
  { title: "LAST USE", of: (h) => timeText(h.lastTime) },
];

const FINDING_COLUMNS: readonly Column<RuleFinding>[] = [
  { title: "RULE", of: (f) => f.ruleName },
  { title: "WHERE", of: (f) => f.path || "(the rule)" },
  { title: "WHAT", of: (f) => f.message, maxWidth: 160 },
];

function addFleet(rules: Command): void {
  rules
    .command("status")
    .description("show which nodes enforce which revision of the rules")
    .action(
      withConnection(async ({ rules: client }, { output }) => {
        printOne(output, GetConvergenceResponseSchema, await client.getConvergence({}), (answer) => {
          const state = answer.isConverged
            ? "every connected node enforces it"
            : "not every connected node enforces it";
          const head = `revision ${answer.rulesetRevision} of ${timeText(answer.changeTime)}: ${state}`;
          return `${head}\n${toTable(REVISION_COLUMNS, answer.revisions)}`;
        });
      }),
    );
  rules
    .command("arming <rule>")
    .description("show how nodes deliver what a rule asks for, and how far its roll-out has come")
    .action(
      withConnection(async ({ rules: client }, { output }, rule: string) => {
        printOne(output, GetArmingResponseSchema, await client.getArming({ rule }), (answer) => {
          const { rollOut, armedNodeCount, nodeCount } = answer;
          const stage = rollOut
            ? `stage ${rollOut.stage + 1} of ${rollOut.percents.length} (${rollOut.percents.join(", ")} %)`
            : "";
          const halted = rollOut?.isHalted ? `halted: ${rollOut.haltReason}` : stage;
          const head = `armed on ${armedNodeCount} of ${nodeCount} connected nodes${halted === "" ? "" : `; ${halted}`}`;
          return `${head}\n${toTable(ARMED_COLUMNS, answer.effects)}`;
        });
      }),
    );
  rules
    .command("hits [rule]")
    .description("show how often rules, or the entries of one, decided, and when last")
    .action(
      withConnection(async ({ rules: client }, { output }, rule: string | undefined) => {
        const { hits } = await client.listRuleHits({ rule: rule ?? "" });
        printRows(output, RuleHitCountSchema, hits, HIT_COLUMNS);
      }),
    );
}

function addReach(rules: Command): void {
  rules
    .command("resolve <container>")
    .description("show which rule a running container gets, and why not those before it")
    .action(
      withConnection(async (connection, { output }, wanted: string) => {
        const container = await runningContainer(connection, wanted);
        printOne(output, ResolveRuleResponseSchema, await connection.rules.resolveRule({ container }), (answer) => {
          const passed = answer.passedOver.map(({ name, reason }) => `  not \`${name}\`: ${reason}`);
          const rule = answer.rule ? `rule \`${answer.rule.name}\`` : "no rule: nothing is enforced";
          const sections = answer.resultantPolicy?.sections.map(({ section, effect, entries }) => {
            const count = (isAllowed: boolean) => entries.filter((entry) => entry.isAllowed === isAllowed).length;
            return `  ${enumText(Section, section)}: ${enumText(Effect, effect)}, ${count(true)} allowed, ${count(false)} denied`;
          });
          return [`container \`${container.name}\` gets ${rule}`, ...passed, ...(sections ?? [])].join("\n");
        });
      }),
    );
  rules
    .command("coverage [rule]")
    .description("show which running containers a rule, or a draft of one, names and which of them it gets")
    .option("-f, --file <file>", "a draft instead of a saved rule")
    .action(
      withConnection(async ({ rules: client }, shared, rule: string | undefined) => {
        const { file } = shared as unknown as { file?: string };
        if ((rule === undefined) === (file === undefined)) throw new CommandError("name a rule or a file with a draft");
        const request = file === undefined ? { rule: rule ?? "" } : { draft: readRule(file) };
        const answer = await client.listCoverage(request);
        if (shared.output === "table") {
          print(
            `gets ${answer.appliedCount} of ${answer.runningCount} running containers${answer.isCut ? "; not all are listed" : ""}`,
          );
        }
        printRows(shared.output, CoveredContainerSchema, answer.containers, [
          { title: "CONTAINER", of: (c) => c.container?.name ?? "" },
          { title: "NODE", of: (c) => c.container?.nodeId ?? "" },
          { title: "IMAGE", of: (c) => c.container?.image?.name || "-", maxWidth: 60 },
          {
            title: "GETS",
            of: (c) => (c.isApplied ? "this rule" : c.otherRuleName ? `\`${c.otherRuleName}\`` : "no rule"),
          },
        ]);
      }),
    );
  rules
    .command("check")
    .description("find rules that no container can get and entries that change nothing")
    .action(
      withConnection(async ({ rules: client }, { output }) => {
        printRows(output, RuleFindingSchema, (await client.checkRules({})).findings, FINDING_COLUMNS);
      }),
    );
}

function compared(of: (row: SimulatedRow["now"]) => unknown) {
  return ({ now, draft }: SimulatedRow) => `${of(now) ?? 0} → ${of(draft) ?? 0}`;
}

const COUNT_COLUMNS: readonly Column<SimulatedRow>[] = [
  { title: "AUDITED", of: compared((c) => c?.auditedCount) },
  { title: "PREVENTED", of: compared((c) => c?.preventedCount) },
  { title: "STOPPED", of: compared((c) => c?.stoppedCount) },
];

function decided(of: SimulatedChange["now"]): string {
  return of?.isAudited ? enumText(Effect, of.effectApplied) : "nothing";
}

const CHANGE_COLUMNS: readonly Column<SimulatedChange>[] = [
  { title: "WHAT", of: (c) => (c.event ? eventText(c.event) : ""), maxWidth: 70 },
  { title: "N", of: (c) => (c.count === 0n ? "known" : String(c.count)) },
  { title: "CONTAINERS", of: (c) => String(c.containerCount) },
  { title: "NOW", of: (c) => decided(c.now) },
  { title: "DRAFT", of: (c) => decided(c.draft) },
  { title: "WHY", of: (c) => c.draft?.explanation?.message ?? "", maxWidth: 90 },
];

const SHOWN = 50;

function simulationText(answer: SimulateRulesResponse): string {
  const took = answer.took ? durationMs(answer.took) : 0;
  const known = `${answer.recordCount} recorded and ${answer.itemCount} known behaviours`;
  const head = `${known}, ${answer.decisionCount} decisions in ${took} ms${answer.isCut ? "; not all were gone through or are shown" : ""}`;
  const days = toTable([{ title: "DAY", of: (r: SimulatedRow) => r.day }, ...COUNT_COLUMNS], answer.days);
  const byContainer = [{ title: "CONTAINER", of: (r: SimulatedRow) => r.container?.name ?? "" }, ...COUNT_COLUMNS];
  const containers = toTable(byContainer, answer.containers.slice(0, SHOWN));
  const changes = toTable(CHANGE_COLUMNS, answer.changes.slice(0, SHOWN));
  const none = answer.changes.length === 0 ? "nothing would be decided in another way" : changes;
  return [head, ...(answer.days.length > 0 ? [days, containers] : []), none].join("\n\n");
}

function addSimulate(rules: Command): void {
  rules
    .command("simulate")
    .description("try a draft on what happened in the last days, beside the rules in force")
    .requiredOption("-f, --file <file>", "a rule, or a file of rules; - for standard input")
    .option("--since <time>", "how far back, for example 12h or 7d", "7d")
    .option("--whole", "the file holds all rules there are to be")
    .option("--model <key>", "only this model")
    .action(
      withConnection(async ({ rules: client }, shared) => {
        const options = shared as unknown as { file: string; since: string; whole?: boolean; model?: string };
        const answer = await client.simulateRules({
          drafts: readDrafts(options.file),
          isWholeRuleset: options.whole === true,
          since: durationFromMs(sinceMs(options.since)),
          modelKey: options.model ?? "",
        });
        printOne(shared.output, SimulateRulesResponseSchema, answer, simulationText);
      }),
    );
}

/** Adds what shows where rules are in force, what they reach, and what a draft would do. */
export function addRuleInsight(rules: Command): void {
  addFleet(rules);
  addReach(rules);
  addSimulate(rules);
}
