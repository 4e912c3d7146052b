import type { Command } from "commander";
import { guessType } from "#core/intel/normal-form.ts";
import { enumText } from "#core/text/enum-text.ts";
import { type Indicator, IndicatorSchema, IndicatorType, Verdict } from "#gen/gabion/intel/v1/intel_pb.ts";
import { LookUpIndicatorResponseSchema } from "#gen/gabion/intel/v1/intel_service_pb.ts";
import { type Column, print, printOne, printRows } from "./output.ts";
import { withConnection } from "./shared.ts";

const COLUMNS: readonly Column<Indicator>[] = [
  { title: "TYPE", of: (i) => enumText(IndicatorType, i.type) },
  { title: "VALUE", of: (i) => i.value, maxWidth: 80 },
  { title: "VERDICT", of: (i) => enumText(Verdict, i.verdict) },
  { title: "SOURCES", of: (i) => i.sources.map((s) => s.feed).join(", ") },
  { title: "DESCRIPTION", of: (i) => i.sources[0]?.description ?? "" },
];

/** Adds `gabion intel`. */
export function addIntelCommands(program: Command): void {
  const intel = program.command("intel").description("known-bad domains, prefixes and files");
  intel
    .command("list", { isDefault: true })
    .description("list indicators")
    .action(
      withConnection(async ({ intel: client }, { output }) => {
        printRows(output, IndicatorSchema, (await client.listIndicators({ pageSize: 1000 })).indicators, COLUMNS);
      }),
    );
  intel
    .command("add <objects...>")
    .description("list domains, addresses, prefixes or SHA-256 hashes as bad")
    .option("--exception", "as exceptions instead")
    .option("--description <text>", "why", "")
    .action(
      withConnection(async ({ intel: client }, shared, objects: string[]) => {
        const { exception, description } = shared as unknown as { exception?: boolean; description: string };
        const verdict = exception ? Verdict.EXCEPTION : Verdict.BAD;
        const indicators = objects.map((value) => ({
          type: guessType(value),
          value,
          verdict,
          sources: [{ description }],
        }));
        printRows(shared.output, IndicatorSchema, (await client.putIndicators({ indicators })).indicators, COLUMNS);
      }),
    );
  intel
    .command("remove <object>")
    .description("take an object off the list")
    .action(
      withConnection(async ({ intel: client }, _, value: string) => {
        await client.deleteIndicator({ type: guessType(value), value });
        print(`\`${value}\` removed`);
      }),
    );
  intel
    .command("look-up <object>")
    .description("say whether an object is bad, and why")
    .action(
      withConnection(async ({ intel: client }, { output }, object: string) => {
        printOne(output, LookUpIndicatorResponseSchema, await client.lookUpIndicator({ object }), (a) => a.reason);
      }),
    );
}
