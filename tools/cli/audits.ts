import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { Command } from "commander";
import { enumText } from "#core/text/enum-text.ts";
import { type Audit, AuditKind, AuditSchema } from "#gen/gabion/audit/v1/audit_pb.ts";
import { Delivery, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CommandError } from "./connection.ts";
import { stateText } from "./models.ts";
import { type Column, print, printOne, printRows, timeText, toTable } from "./output.ts";
import { withConnection } from "./shared.ts";

/** What was asked and what came of it. */
export function effectText({ decision, delivery }: Audit): string {
  return decision ? `${enumText(Effect, decision.effectAsked)}: ${enumText(Delivery, delivery)}` : "";
}

export const AUDIT_COLUMNS: readonly Column<Audit>[] = [
  { title: "TIME", of: (a) => timeText(a.lastTime) },
  { title: "CONTAINER", of: (a) => a.container?.name ?? "-", maxWidth: 24 },
  { title: "KIND", of: (a) => enumText(AuditKind, a.kind) },
  { title: "EFFECT", of: effectText },
  { title: "RULE", of: (a) => a.ruleName || "-", maxWidth: 30 },
  { title: "N", of: (a) => String(a.count) },
  { title: "MESSAGE", of: (a) => a.message, maxWidth: 90 },
];

function auditText(audit: Audit): string {
  const actor = audit.event?.actor;
  const exec = audit.event?.kind.case === "exec" ? audit.event.kind.value : undefined;
  const rows: (readonly [string, string])[] = [
    ["audit", audit.auditId],
    ["time", `${timeText(audit.firstTime)} to ${timeText(audit.lastTime)}, ${audit.count} times`],
    ["node", audit.nodeId],
    ["container", audit.container ? `${audit.container.name} (${audit.container.containerId})` : "-"],
    ["what", audit.message],
    ["effect", effectText(audit)],
    ["delivery", audit.deliveryNote || "-"],
    ["rule", audit.ruleName ? `${audit.ruleName} (revision ${audit.ruleRevision})` : "-"],
    ["model", audit.modelKey ? `${audit.modelKey} (${stateText(audit.modelState)})` : "-"],
    ["process", actor ? `${actor.path} pid ${actor.pid} uid ${actor.uid}` : "-"],
    ["arguments", actor?.args.join(" ") ?? "-"],
    ["sha256", actor?.sha256 || "-"],
    ["started by", exec?.ancestors.map((a) => a.path).join(" ← ") || "-"],
    ["passed over", audit.decision?.explanation?.passedOver.join("; ") || "-"],
    ["nearest", audit.decision?.explanation?.nearest.map((n) => `${n.item} (${n.difference})`).join("; ") || "-"],
  ];
  return toTable(
    [
      { title: "FIELD", of: (r) => r[0] },
      { title: "VALUE", of: (r) => r[1], maxWidth: 400 },
    ],
    rows,
  );
}

interface FilterOptions {
  readonly node?: string;
  readonly container?: string;
  readonly model?: string;
  readonly rule?: string;
  readonly kind?: string;
  readonly since?: string;
  readonly limit?: string;
}

function sinceMs(text: string): number {
  const match = /^(\d+)(s|m|h|d)$/.exec(text);
  if (!match) throw new CommandError(`--since \`${text}\`: write a span such as 30s, 15m, 2h or 7d`);
  const unit = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }[match[2] as "s"];
  return Date.now() - Number(match[1]) * unit;
}

function kindOf(text: string | undefined): AuditKind {
  const kind = text === undefined ? AuditKind.UNSPECIFIED : AuditKind[text.toUpperCase() as keyof typeof AuditKind];
  if (kind === undefined) throw new CommandError(`--kind \`${text}\`: must be deviation, denial, detection or system`);
  return kind;
}

function filterOf(options: FilterOptions) {
  return {
    nodeId: options.node ?? "",
    containerId: options.container ?? "",
    modelKey: options.model ?? "",
    ruleName: options.rule ?? "",
    kind: kindOf(options.kind),
    ...(options.since === undefined ? {} : { startTime: timestampFromMs(sinceMs(options.since)) }),
  };
}

function withFilter(command: Command): Command {
  return command
    .option("--node <id>", "only of this node")
    .option("--container <id>", "only of this container")
    .option("--model <key>", "only of this model")
    .option("--rule <name>", "only under this rule")
    .option("--kind <kind>", "deviation, denial, detection or system");
}

/** Adds `gabion audits`. */
export function addAuditCommands(program: Command): void {
  const audits = program.command("audits").description("what was found and done");
  withFilter(audits.command("list", { isDefault: true }).description("list audits, newest first"))
    .option("--since <span>", "only since, for example 15m, 2h, 7d")
    .option("--limit <n>", "at most this many", "100")
    .action(
      withConnection(async ({ audits: client }, shared) => {
        const options = shared as unknown as FilterOptions;
        const { audits: found } = await client.listAudits({
          filter: filterOf(options),
          pageSize: Number(options.limit),
        });
        printRows(shared.output, AuditSchema, found, AUDIT_COLUMNS);
      }),
    );
  audits
    .command("get <audit>")
    .description("show one audit with its reasons")
    .action(
      withConnection(async ({ audits: client }, { output }, auditId: string) => {
        const { audit } = await client.getAudit({ auditId });
        if (audit) printOne(output, AuditSchema, audit, auditText);
      }),
    );
  withFilter(audits.command("watch").description("show audits as they come, until interrupted")).action(
    withConnection(async ({ audits: client }, shared) => {
      for await (const { audits: found } of client.watchAudits({
        filter: filterOf(shared as unknown as FilterOptions),
      })) {
        if (found.length === 0) continue;
        if (shared.output === "json") printRows("json", AuditSchema, found, AUDIT_COLUMNS);
        else print(toTable(AUDIT_COLUMNS, found).split("\n").slice(1).join("\n"));
      }
    }),
  );
}
