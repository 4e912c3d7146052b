import { durationMs } from "@bufbuild/protobuf/wkt";
import type { Command } from "commander";
import { recordTypeText } from "#core/policy/dns-policy.ts";
import { portText } from "#core/policy/network-event.ts";
import { toSeccompProfile, withoutName } from "#core/syscall/seccomp.ts";
import { enumText } from "#core/text/enum-text.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import {
  type Fact,
  ItemSource,
  ItemStatus,
  LearningState,
  type Model,
  type ModelItem,
  ModelItemSchema,
  ModelSchema,
  type ModelSection,
} from "#gen/gabion/model/v1/model_pb.ts";
import type { WatchModelsResponse } from "#gen/gabion/model/v1/model_service_pb.ts";
import { CommandError, type Connection } from "./connection.ts";
import { type Column, type OutputFormat, print, printOne, printRows, timeText, toTable } from "./output.ts";
import { type Shared, withConnection } from "./shared.ts";

/** State as the specification names it; a dry run is shown as active. */
export function stateText(state: LearningState): string {
  return state === LearningState.DRY_RUN ? "active (dry-run)" : enumText(LearningState, state);
}

function percent(value: number): string {
  return `${(value * 100).toFixed(1)} %`;
}

/** What the model has not seen yet, never without its uncertainty. */
export function completenessText({ completeness }: ModelSection): string {
  if (completeness?.expectedNewPerDay === undefined) return "not known yet";
  const {
    expectedNewPerDay: mean,
    expectedNewPerDayUpper: upper = 0,
    unseenProbabilityUpper = 0,
    unitCount,
  } = completeness;
  return `${mean.toFixed(1)} new a day expected (below ${upper.toFixed(0)} with 95 %; chance of new in 5 min below ${percent(unseenProbabilityUpper)}; ${unitCount} units)`;
}

type OtherKind = Exclude<Fact["kind"], { case: "process" } | { case: undefined }>;

function otherFactText(kind: OtherKind): string {
  switch (kind.case) {
    case "listen":
      return `listens on ${portText(kind.value.transport, kind.value.port)}`;
    case "outbound":
      return `${portText(kind.value.transport, kind.value.port)} of ${kind.value.address || "the Internet"}`;
    case "domain":
      return `${kind.value.name} (${recordTypeText(kind.value.recordType)})`;
    case "file":
      return `${kind.value.path}${kind.value.isExecutable ? " (executable)" : ""} by ${kind.value.processPath}`;
    case "syscall":
      return `${kind.value.name}${kind.value.isCompat ? " (32-bit)" : ""}`;
  }
}

/** An item as one line. */
export function factText(fact: Fact | undefined): string {
  const kind = fact?.kind;
  if (kind?.case !== "process") return kind?.case ? otherFactText(kind) : "";
  const { path, name, sha256 } = kind.value;
  const as = path.endsWith(`/${name}`) ? "" : ` as ${name}`;
  return `${path}${as}${sha256 === "" ? "" : ` sha256:${sha256.slice(0, 12)}…`}`;
}

const COLUMNS: readonly Column<Model>[] = [
  { title: "MODEL", of: (m) => m.modelKey },
  { title: "IMAGE", of: (m) => m.imageName || (m.scope?.imageDigest.slice(0, 19) ?? ""), maxWidth: 40 },
  { title: "STATE", of: (m) => (m.isArchived ? `archived (${stateText(m.state)})` : stateText(m.state)) },
  { title: "CONTAINERS", of: (m) => String(m.containerCount) },
  { title: "ITEMS", of: (m) => String(m.sections.reduce((sum, s) => sum + s.itemCount, 0)) },
  { title: "CHANGED", of: (m) => timeText(m.updateTime) },
];

const ITEM_COLUMNS: readonly Column<ModelItem>[] = [
  { title: "ITEM", of: (i) => i.itemId },
  { title: "WHAT", of: (i) => factText(i.fact), maxWidth: 70 },
  { title: "STATUS", of: (i) => enumText(ItemStatus, i.status) },
  { title: "SOURCE", of: (i) => enumText(ItemSource, i.source) },
  { title: "COUNT", of: (i) => String(i.count) },
  { title: "FIRST SEEN", of: (i) => timeText(i.firstSeenTime) },
  { title: "STARTED BY", of: (i) => i.parentPaths.join(", "), maxWidth: 40 },
];

function sectionText(section: ModelSection): string {
  const observed = section.observed ? Math.round(durationMs(section.observed) / 1000) : 0;
  const required = section.required ? ` of ${Math.round(durationMs(section.required) / 1000)} s needed` : "";
  const head = `${enumText(Section, section.section)}: ${stateText(section.state)}, observed ${observed} s${required}`;
  const end = section.endTime ? `\n  ends ${timeText(section.endTime)}` : "";
  return `${head}${end}\n  completeness: ${completenessText(section)}\n${toTable(ITEM_COLUMNS, section.items)}`;
}

function modelText(model: Model): string {
  const transitions = model.transitions.map(
    (t) =>
      `  ${timeText(t.transitionTime)}  ${enumText(Section, t.section)}: ${stateText(t.fromState)} → ${stateText(t.toState)}: ${t.cause}`,
  );
  const head = `${model.modelKey}  image ${model.imageName || "without name"}  ${model.scope?.imageDigest ?? ""}`;
  const containers = `${model.containerCount} containers${model.isArchived ? `, archived, removed ${timeText(model.purgeTime)}` : ""}`;
  return [head, containers, ...model.sections.map(sectionText), "history:", ...transitions].join("\n");
}

/** The model with a key or an unambiguous beginning of one. */
export async function findModel({ models }: Connection, wanted: string): Promise<Model> {
  if (/^m-[0-9a-f]{32}$/.test(wanted)) {
    const { model } = await models.getModel({ modelKey: wanted });
    if (model) return model;
  }
  const { models: all } = await models.listModels({ pageSize: 1000, omitItems: true });
  const found = all.filter((m) => m.modelKey.startsWith(wanted) || m.modelKey.startsWith(`m-${wanted}`));
  const only = found.length === 1 ? found[0] : undefined;
  const { model } = only ? await models.getModel({ modelKey: only.modelKey }) : {};
  if (model) return model;
  const why = found.length === 0 ? "there is no such model" : `${found.length} models begin so`;
  throw new CommandError(`model \`${wanted}\`: ${why}; see \`gabion models list\``);
}

/** Without an etag: what is asked for is about the model as such, and a model that learns changes all the time. */
function changeCommand(
  models: Command,
  name: string,
  description: string,
  change: (connection: Connection, model: Model) => Promise<{ model?: Model | undefined }>,
): void {
  models
    .command(`${name} <model>`)
    .description(description)
    .action(
      withConnection(async (connection, { output }, wanted: string) => {
        const { model } = await change(connection, await findModel(connection, wanted));
        if (model) printOne(output, ModelSchema, model, (m) => `${m.modelKey} is ${stateText(m.state)}`);
      }),
    );
}

function showChange(output: OutputFormat, { model, isRemoved }: WatchModelsResponse): void {
  if (!model) return;
  if (output === "json") printRows("json", ModelSchema, [model], COLUMNS);
  else print(isRemoved ? `${model.modelKey} removed` : (toTable(COLUMNS, [model]).split("\n")[1] ?? ""));
}

/** Adds `gabion models`. */
export function addModelCommands(program: Command): void {
  const models = program.command("models").description("what was learned of each image");
  models
    .command("list", { isDefault: true })
    .description("list models")
    .action(
      withConnection(async ({ models: client }, { output }: Shared) => {
        const { models: found } = await client.listModels({ pageSize: 1000, omitItems: true });
        printRows(output, ModelSchema, found, COLUMNS);
      }),
    );
  models
    .command("get <model>")
    .description("show a model with all that was learned; a beginning of the key suffices")
    .action(
      withConnection(async (connection, { output }, wanted: string) => {
        printOne(output, ModelSchema, await findModel(connection, wanted), modelText);
      }),
    );
  models
    .command("seccomp <model>")
    .description("print the learned system calls as a seccomp profile for an OCI runtime")
    .action(
      withConnection(async (connection, _: Shared, wanted: string) => {
        const { sections } = await findModel(connection, wanted);
        const section = sections.find((s) => s.section === Section.SYSCALL);
        const items = (section?.items ?? []).flatMap(({ fact, status }) =>
          fact?.kind.case === "syscall" && status === ItemStatus.ALLOWED ? [fact.kind.value] : [],
        );
        if (items.length === 0) throw new CommandError("the model has learned no system calls yet");
        for (const name of withoutName(items)) process.stderr.write(`gabion: ${name} has no name and is left out\n`);
        print(JSON.stringify(toSeccompProfile(items), null, 2));
      }),
    );
  models
    .command("watch [model]")
    .description("show models as they change, until interrupted")
    .action(
      withConnection(async (connection, { output }, wanted?: string) => {
        const modelKey = wanted === undefined ? "" : (await findModel(connection, wanted)).modelKey;
        for await (const change of connection.models.watchModels({ modelKey })) showChange(output, change);
      }),
    );
  changeCommand(models, "relearn", "learn again; nothing learned is lost", ({ models: c }, { modelKey }) =>
    c.relearnModel({ modelKey }),
  );
  changeCommand(models, "learn-start", "learn without limit", ({ models: c }, { modelKey }) =>
    c.startManualLearning({ modelKey }),
  );
  changeCommand(models, "learn-stop", "end manual learning", ({ models: c }, { modelKey }) =>
    c.stopManualLearning({ modelKey }),
  );
  models
    .command("remove-item <model> <item>")
    .description("remove a learned item so that it stays removed")
    .action(
      withConnection(async (connection, { output }, wanted: string, itemId: string) => {
        const { modelKey } = await findModel(connection, wanted);
        const { model } = await connection.models.removeModelItem({ modelKey, itemId });
        const items = model?.sections.flatMap((s) => s.items).filter((i) => i.itemId === itemId) ?? [];
        printRows(output, ModelItemSchema, items, ITEM_COLUMNS);
      }),
    );
  models
    .command("accept <model> <items...>")
    .description("accept held items into the model")
    .action(
      withConnection(async (connection, { output }, wanted: string, itemIds: string[]) => {
        const { modelKey } = await findModel(connection, wanted);
        const { model } = await connection.models.acceptModelItems({ modelKey, itemIds });
        const items = model?.sections.flatMap((s) => s.items).filter((i) => itemIds.includes(i.itemId)) ?? [];
        printRows(output, ModelItemSchema, items, ITEM_COLUMNS);
      }),
    );
}
