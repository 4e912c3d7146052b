import { durationMs } from "@bufbuild/protobuf/wkt";
import { type Command, Option } from "commander";
import { factText } from "#core/model/fact-text.ts";
import { enumText } from "#core/text/enum-text.ts";
import { printable } from "#core/text/escape.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import {
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

const COLUMNS: readonly Column<Model>[] = [
  { title: "MODEL", of: (m) => m.modelKey },
  { title: "IMAGE", of: (m) => m.imageName || (m.scope?.imageDigest.slice(0, 19) ?? ""), maxWidth: 40 },
  { title: "STATE", of: (m) => (m.isArchived ? `archived (${stateText(m.state)})` : stateText(m.state)) },
  { title: "CONTAINERS", of: (m) => String(m.containerCount) },
  { title: "ITEMS", of: (m) => String(m.sections.reduce((sum, s) => sum + s.itemCount, 0)) },
  { title: "HELD", of: (m) => String(m.heldCount) },
  { title: "CHANGED", of: (m) => timeText(m.updateTime) },
];

function statusText({ status, isSingular, isPinned }: ModelItem): string {
  const marks = [...(isSingular ? ["one replica only"] : []), ...(isPinned ? ["confirmed"] : [])];
  return [enumText(ItemStatus, status), ...marks].join(", ");
}

export const ITEM_COLUMNS: readonly Column<ModelItem>[] = [
  { title: "ITEM", of: (i) => i.itemId },
  { title: "WHAT", of: (i) => factText(i.fact), maxWidth: 70 },
  { title: "STATUS", of: statusText },
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
  const full = section.isFull ? "\n  FULL: new behaviour is not learned any more" : "";
  const lost = section.completeness?.lostEventCount ?? 0n;
  const losses = lost > 0n ? `; ${lost} events lost while observing` : "";
  const last = section.completeness?.lastNewItemTime;
  const newest = last ? `; last new item ${timeText(last)}` : "";
  const families = section.items.filter(({ foldedCount }) => foldedCount > 0).map(familyText);
  const sure = `  completeness: ${completenessText(section)}${newest}${losses}`;
  return [`${head}${end}${full}`, sure, toTable(ITEM_COLUMNS, section.items), ...families].join("\n");
}

function familyText({ itemId, fact, reason, folded, foldedCount }: ModelItem): string {
  const shown = folded.slice(0, 5).map((member) => `\`${printable(member)}\``);
  return `  family ${itemId} ${printable(factText(fact))}: ${printable(reason)}; such as ${shown.join(", ")} (${foldedCount} in all)`;
}

function analysisText({ staticAnalysis }: Model): string[] {
  if (!staticAnalysis) return ["static analysis: not done"];
  const { files, unresolved, analyzeTime, libraries } = staticAnalysis;
  const head = `static analysis: ${timeText(analyzeTime)}, read ${files.length === 0 ? "the configuration" : files.map(printable).join(", ")}`;
  const loaded =
    libraries.length === 0 ? [] : [`  loaded with it: ${libraries.map(({ path }) => printable(path)).join(", ")}`];
  return [head, ...loaded, ...unresolved.map((text) => `  not resolved: ${printable(text)}`)];
}

function modelText(model: Model): string {
  const transitions = model.transitions.map(
    (t) =>
      `  ${timeText(t.transitionTime)}  ${enumText(Section, t.section)}: ${stateText(t.fromState)} → ${stateText(t.toState)}: ${t.cause}`,
  );
  const head = `${model.modelKey}  image ${model.imageName || "without name"}  ${model.scope?.imageDigest ?? ""}`;
  const containers = `${model.containerCount} containers${model.isArchived ? `, archived, removed ${timeText(model.purgeTime)}` : ""}`;
  return [
    head,
    containers,
    ...analysisText(model),
    ...model.sections.map(sectionText),
    "history:",
    ...transitions,
  ].join("\n");
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

interface ListOptions {
  readonly image: string;
  readonly namespace: string;
  readonly state?: string;
  readonly archived?: boolean;
  readonly held?: boolean;
  readonly sort: string;
}

const SORTS = ["model_key", "update_time", "image_name"];
const STATES = Object.values(LearningState)
  .filter((state) => state !== LearningState.UNSPECIFIED)
  .map((state) => enumText(LearningState, state));

function stateOf(text: string | undefined): LearningState {
  const found = Object.values(LearningState).find((state) => enumText(LearningState, state) === text);
  return found ?? LearningState.UNSPECIFIED;
}

/** Adds `gabion models`, and answers it for further commands below it. */
export function addModelCommands(program: Command): Command {
  const models = program.command("models").description("what was learned of each image");
  models
    .command("list", { isDefault: true })
    .description("list models")
    .option("--image <text>", "only images whose name contains this", "")
    .option("--namespace <name>", "only this namespace", "")
    .addOption(new Option("--state <state>", "only this state").choices(STATES))
    .option("--archived", "only archived ones")
    .option("--held", "only those with items that wait for a person")
    .addOption(new Option("--sort <field>", "order").choices(SORTS).default("model_key"))
    .action(
      withConnection(async ({ models: client }, shared) => {
        const options = shared as Shared & ListOptions;
        const request = {
          pageSize: 1000,
          omitItems: true,
          imageNameContains: options.image,
          namespace: options.namespace,
          state: stateOf(options.state),
          hasHeld: options.held === true,
          orderBy: options.sort === "update_time" ? "update_time desc" : options.sort,
          ...(options.archived === true ? { isArchived: true } : {}),
        };
        const { models: found, nextPageToken } = await client.listModels(request);
        printRows(options.output, ModelSchema, found, COLUMNS);
        if (nextPageToken !== "") process.stderr.write("gabion: there are more; narrow the list\n");
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
  return models;
}
