import { readFileSync } from "node:fs";
import { fromJson, type JsonValue, toJson } from "@bufbuild/protobuf";
import { parse, stringify } from "yaml";
import { plainRule } from "#core/policy/plain-rule.ts";
import { type Rule, RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { CommandError } from "./connection.ts";

/** What a file of rules says of itself; another version is refused whole. */
const FORMAT = "gabion.rules";
const VERSION = 1;

interface RuleFile {
  readonly format?: unknown;
  readonly version?: unknown;
  readonly rules?: unknown;
}

function readText(file: string): JsonValue {
  try {
    return parse(readFileSync(file === "-" ? 0 : file, "utf8")) as JsonValue;
  } catch (error) {
    throw new CommandError(`${file}: ${(error as Error).message}`);
  }
}

function toRule(file: string, place: string, json: JsonValue): Rule {
  try {
    return fromJson(RuleSchema, json);
  } catch (error) {
    throw new CommandError(`${file}: ${place}${(error as Error).message}`);
  }
}

/** Reads one rule from YAML or JSON; unknown fields are faults. `-` is standard input. */
export function readRule(file: string): Rule {
  return toRule(file, "", readText(file));
}

/** Reads a file of rules, in their order. All that are wrong are told. */
export function readRules(file: string): Rule[] {
  const { format, version, rules } = (readText(file) ?? {}) as RuleFile;
  if (format !== FORMAT) throw new CommandError(`${file}: \`format\` must be \`${FORMAT}\``);
  if (version !== VERSION) {
    throw new CommandError(
      `${file}: version ${JSON.stringify(version)} is not known here, ${VERSION} is: export again`,
    );
  }
  if (!Array.isArray(rules)) throw new CommandError(`${file}: \`rules\` must be a list`);
  const faults: string[] = [];
  const read = rules.flatMap((json: JsonValue, index) => {
    try {
      return [toRule(file, `rules[${index}]: `, json)];
    } catch (error) {
      faults.push((error as Error).message);
      return [];
    }
  });
  if (faults.length > 0) throw new CommandError(faults.join("\n"));
  return read;
}

/** One rule, or a file of rules: drafts. */
export function readDrafts(file: string): Rule[] {
  const json = readText(file);
  const isFile = typeof json === "object" && json !== null && "format" in json;
  return isFile ? readRules(file) : [toRule(file, "", json)];
}

/** Rules as a file: the same rules give the same text. */
export function rulesText(rules: readonly Rule[], isJson: boolean): string {
  const file = { format: FORMAT, version: VERSION, rules: rules.map((rule) => toJson(RuleSchema, plainRule(rule))) };
  return isJson ? JSON.stringify(file, null, 2) : stringify(file, { lineWidth: 0 }).trimEnd();
}

/** One rule as people read and change it. */
export function ruleText(rule: Rule): string {
  return stringify(toJson(RuleSchema, rule)).trimEnd();
}
