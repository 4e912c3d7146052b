import { readFileSync } from "node:fs";
import { toJson } from "@bufbuild/protobuf";
import { type Command, Option } from "commander";
import { stringify } from "yaml";
import { ruleOfModel } from "#core/model/model-rule.ts";
import { enumText } from "#core/text/enum-text.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import {
  ItemStatus,
  type ModelHistoryEntry,
  ModelHistoryEntrySchema,
  ModelHistoryKind,
  type ModelItem,
  ModelItemSchema,
} from "#gen/gabion/model/v1/model_pb.ts";
import {
  ModelChange,
  type ModelChangeResult,
  ModelChangeResultSchema,
  ProfileFormat,
} from "#gen/gabion/model/v1/model_service_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { CommandError, type Connection } from "./connection.ts";
import { findModel, ITEM_COLUMNS } from "./models.ts";
import { type Column, print, printRows, timeText } from "./output.ts";
import { type Shared, withConnection } from "./shared.ts";

const HISTORY_COLUMNS: readonly Column<ModelHistoryEntry>[] = [
  { title: "N", of: (e) => String(e.sequence) },
  { title: "TIME", of: (e) => timeText(e.entryTime) },
  { title: "SECTION", of: (e) => (e.section === Section.UNSPECIFIED ? "" : enumText(Section, e.section)) },
  { title: "KIND", of: (e) => enumText(ModelHistoryKind, e.kind) },
  { title: "WHAT", of: (e) => e.text },
];

const RESULT_COLUMNS: readonly Column<ModelChangeResult>[] = [
  { title: "MODEL", of: (r) => r.modelKey },
  { title: "IMAGE", of: (r) => r.imageName, maxWidth: 50 },
  { title: "RESULT", of: (r) => r.error || "changed" },
];

const FORMATS: Readonly<Record<string, ProfileFormat>> = {
  seccomp: ProfileFormat.SECCOMP,
  "network-policy": ProfileFormat.NETWORK_POLICY,
  apparmor: ProfileFormat.APPARMOR,
};

const CHANGES: Readonly<Record<string, ModelChange>> = {
  relearn: ModelChange.RELEARN,
  "learn-start": ModelChange.START_MANUAL,
  "learn-stop": ModelChange.STOP_MANUAL,
  archive: ModelChange.ARCHIVE,
  accept: ModelChange.ACCEPT_HELD,
};

async function printProfile(connection: Connection, wanted: string, format: ProfileFormat): Promise<void> {
  const { modelKey } = await findModel(connection, wanted);
  const { document, unexpressed } = await connection.models.renderModelProfile({ modelKey, format });
  for (const text of unexpressed) process.stderr.write(`gabion: not expressed: ${text}\n`);
  process.stdout.write(document);
}

function addTexts(models: Command): void {
  models
    .command("export <model>")
    .description("print a model as JSON that `models import` reads, or as a profile for another mechanism")
    .addOption(new Option("--as <format>", "what to write").choices(["json", ...Object.keys(FORMATS)]).default("json"))
    .action(
      withConnection(async (connection, shared, wanted: string) => {
        const format = FORMATS[(shared as unknown as { as: string }).as];
        if (format !== undefined) return printProfile(connection, wanted, format);
        const { modelKey } = await findModel(connection, wanted);
        process.stdout.write((await connection.models.exportModel({ modelKey })).document);
      }),
    );
  models
    .command("seccomp <model>")
    .description("as `export --as seccomp`")
    .action(
      withConnection((connection, _: Shared, wanted: string) =>
        printProfile(connection, wanted, ProfileFormat.SECCOMP),
      ),
    );
  models
    .command("import <model>")
    .description("take the items of an exported model into a model")
    .requiredOption("-f, --file <file>", "what `models export` printed; - for standard input")
    .option("--validate-only", "check, do not save")
    .action(
      withConnection(async (connection, shared, wanted: string) => {
        const { file, validateOnly = false } = shared as unknown as { file: string; validateOnly?: boolean };
        const document = readFileSync(file === "-" ? 0 : file, "utf8");
        const { modelKey } = await findModel(connection, wanted);
        const { addedCount } = await connection.models.importModel({ modelKey, document, validateOnly });
        print(`${addedCount} items ${validateOnly ? "would be new" : "are new"} in ${modelKey}`);
      }),
    );
  models
    .command("to-rule <model>")
    .description("print the model's items as the allowed lists of a rule, to be changed and given to `rules create`")
    .requiredOption("--name <name>", "name of the rule")
    .addOption(
      new Option("--effect <effect>", "effect of its sections").choices(["alert", "prevent", "block"]).default("alert"),
    )
    .action(
      withConnection(async (connection, shared, wanted: string) => {
        const { name, effect } = shared as unknown as { name: string; effect: string };
        const model = await findModel(connection, wanted);
        const allowed = model.sections
          .flatMap(({ items }) => items)
          .filter(({ status }) => status === ItemStatus.ALLOWED);
        const facts = allowed.flatMap(({ fact }) => (fact ? [fact] : []));
        const asked = Object.values(Effect).find((each) => enumText(Effect, each) === effect) ?? Effect.ALERT;
        print(stringify(toJson(RuleSchema, ruleOfModel(model, facts, name, asked))).trimEnd());
      }),
    );
}

function addReading(models: Command): void {
  models
    .command("history <model>")
    .description("show everything that happened to a model, oldest first")
    .action(
      withConnection(async (connection, { output }, wanted: string) => {
        const { modelKey } = await findModel(connection, wanted);
        const entries: ModelHistoryEntry[] = [];
        for (let pageToken = ""; ; ) {
          const page = await connection.models.listModelHistory({ modelKey, pageSize: 1000, pageToken });
          entries.push(...page.entries);
          pageToken = page.nextPageToken;
          if (pageToken === "") break;
        }
        printRows(output, ModelHistoryEntrySchema, entries, HISTORY_COLUMNS);
      }),
    );
  models
    .command("diff <base> <model>")
    .description("show what two models, or the models of two digests of an image, allow differently")
    .action(
      withConnection(async (connection, { output }, base: string, wanted: string) => {
        const baseModelKey = (await findModel(connection, base)).modelKey;
        const { modelKey } = await findModel(connection, wanted);
        const { added, removed, commonCount } = await connection.models.diffModels({ baseModelKey, modelKey });
        const columns: readonly Column<ModelItem>[] = [
          { title: "", of: (item) => (added.includes(item) ? "+" : "-") },
          ...ITEM_COLUMNS.filter(({ title }) => title === "WHAT" || title === "SOURCE"),
        ];
        printRows(output, ModelItemSchema, [...added, ...removed], columns);
        if (output === "table") print(`${commonCount} items are in both`);
      }),
    );
  models
    .command("held")
    .description("list items of all models that wait for a person")
    .action(
      withConnection(async ({ models: client }, { output }) => {
        const { models: found } = await client.listModels({ pageSize: 1000, hasHeld: true });
        const held = found.flatMap((model) =>
          model.sections.flatMap(({ items }) =>
            items.filter(({ status }) => status === ItemStatus.HELD).map((item) => [item, model.modelKey] as const),
          ),
        );
        const keys = new Map(held);
        const columns: readonly Column<ModelItem>[] = [
          { title: "MODEL", of: (item) => keys.get(item) ?? "" },
          ...ITEM_COLUMNS.filter(({ title }) => title === "ITEM" || title === "WHAT"),
          { title: "WHY", of: (item) => item.reason, maxWidth: 60 },
        ];
        printRows(
          output,
          ModelItemSchema,
          held.map(([item]) => item),
          columns,
        );
      }),
    );
}

function addChanging(models: Command): void {
  const family = (
    name: string,
    description: string,
    change: (client: Connection["models"], names: { modelKey: string; itemId: string }) => Promise<unknown>,
    done: string,
  ) =>
    models
      .command(`${name} <model> <item>`)
      .description(description)
      .action(
        withConnection(async (connection, _: Shared, wanted: string, itemId: string) => {
          const { modelKey } = await findModel(connection, wanted);
          await change(connection.models, { modelKey, itemId });
          print(`${itemId} ${done}`);
        }),
      );
  family(
    "unfold",
    "take a family of items apart; it does not form again",
    (c, names) => c.unfoldModelItem(names),
    "was taken apart",
  );
  family("pin", "confirm a family of items", (c, names) => c.pinModelItem(names), "is confirmed");
  models
    .command("archive <model>")
    .description("archive a model now, if no container of a connected node runs it")
    .action(
      withConnection(async (connection, _: Shared, wanted: string) => {
        const { modelKey } = await findModel(connection, wanted);
        const { model } = await connection.models.archiveModel({ modelKey });
        print(`${modelKey} is archived and removed ${timeText(model?.purgeTime)}`);
      }),
    );
  models
    .command("inherit <model> [from]")
    .description("carry over the items of another model, by default of the digest before")
    .action(
      withConnection(async (connection, _: Shared, wanted: string, from?: string) => {
        const { modelKey } = await findModel(connection, wanted);
        const fromModelKey = from === undefined ? "" : (await findModel(connection, from)).modelKey;
        const { model, addedCount } = await connection.models.inheritModel({ modelKey, fromModelKey });
        print(`${addedCount} items were carried over from ${model?.inheritedFrom}`);
      }),
    );
  models
    .command("change <what>")
    .description(`do one thing to many models: ${Object.keys(CHANGES).join(", ")}`)
    .option("--image <text>", "only images whose name contains this", "")
    .option("--namespace <name>", "only this namespace", "")
    .option("--all", "all models")
    .option("--validate-only", "only say which")
    .action(
      withConnection(async ({ models: client }, shared, what: string) => {
        const options = shared as Shared & { image: string; namespace: string; all?: boolean; validateOnly?: boolean };
        const change = CHANGES[what];
        if (change === undefined)
          throw new CommandError(`\`${what}\` must be one of ${Object.keys(CHANGES).join(", ")}`);
        if (options.image === "" && options.namespace === "" && options.all !== true)
          throw new CommandError("say which models: --image, --namespace or --all");
        const results: ModelChangeResult[] = [];
        for (let pageToken = ""; ; ) {
          const page = await client.batchChangeModels({
            change,
            imageNameContains: options.image,
            namespace: options.namespace,
            validateOnly: options.validateOnly === true,
            pageToken,
          });
          results.push(...page.results);
          pageToken = page.nextPageToken;
          if (pageToken === "") break;
        }
        printRows(options.output, ModelChangeResultSchema, results, RESULT_COLUMNS);
        if (results.some(({ error }) => error !== "")) process.exitCode = 1;
      }),
    );
}

/** Adds what is done with models beside reading and relearning them. */
export function addModelOperations(models: Command): void {
  addReading(models);
  addTexts(models);
  addChanging(models);
}
