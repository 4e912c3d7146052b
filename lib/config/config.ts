import { readFileSync } from "node:fs";
import { parse } from "yaml";
import { z } from "zod";

/** A configuration that cannot be used. The message lists every fault with its place. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
  readonly faults: readonly string[];

  constructor(faults: readonly string[]) {
    super(`the configuration has ${faults.length} fault${faults.length === 1 ? "" : "s"}:\n  ${faults.join("\n  ")}`);
    this.faults = faults;
  }
}

/** One setting: its type with a default, and what it means. Names are dotted: `listen.port`. */
export interface Setting<T> {
  readonly type: z.ZodType<T>;
  readonly description: string;
}

export type Settings = Record<string, Setting<unknown>>;
export type ConfigOf<S extends Settings> = { readonly [K in keyof S]: S[K] extends Setting<infer T> ? T : never };

export interface ConfigSources {
  /** YAML file; its keys are nested or dotted. */
  readonly file?: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Flags as `name=value`. */
  readonly flags?: readonly string[];
}

/** Environment variable of a setting: `listen.port` is `GABION_LISTEN_PORT`. */
export function environmentName(setting: string): string {
  return `GABION_${setting
    .replace(/[.-]/g, "_")
    .replace(/([a-z])([A-Z])/g, "$1_$2")
    .toUpperCase()}`;
}

function flatten(value: unknown, prefix: string, into: Map<string, unknown>): void {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    into.set(prefix, value);
    return;
  }
  for (const [key, inner] of Object.entries(value)) flatten(inner, prefix === "" ? key : `${prefix}.${key}`, into);
}

interface Given {
  readonly value: unknown;
  readonly place: string;
  /** True for environment and flags, whose values are texts that stand for something. */
  readonly isText: boolean;
}

function fromFile(file: string, given: Map<string, Given>, faults: string[]): void {
  const flat = new Map<string, unknown>();
  try {
    flatten(parse(readFileSync(file, "utf8")) ?? {}, "", flat);
  } catch (error) {
    faults.push(`${file}: ${(error as Error).message}`);
    return;
  }
  for (const [name, value] of flat) given.set(name, { value, place: `${file}: ${name}`, isText: false });
}

function fromEnvironment(settings: Settings, env: NonNullable<ConfigSources["env"]>, given: Map<string, Given>): void {
  for (const name of Object.keys(settings)) {
    const variable = environmentName(name);
    const value = env[variable];
    if (value !== undefined) given.set(name, { value, place: `environment: ${variable}`, isText: true });
  }
}

function fromFlags(flags: readonly string[], given: Map<string, Given>, faults: string[]): void {
  for (const flag of flags) {
    const at = flag.indexOf("=");
    if (at <= 0) faults.push(`flag \`${flag}\`: write it as name=value`);
    else given.set(flag.slice(0, at), { value: flag.slice(at + 1), place: `flag: ${flag.slice(0, at)}`, isText: true });
  }
}

/** Texts from environment and flags are read as YAML scalars, so that numbers and truth values come out as such. */
function readScalar({ value, isText }: Given): unknown {
  return isText ? parse(String(value)) : value;
}

function problem(error: z.ZodError): string {
  return error.issues.map((issue) => issue.message.toLowerCase()).join(", ");
}

function gather(settings: Settings, sources: ConfigSources, faults: string[]): Map<string, Given> {
  const given = new Map<string, Given>();
  if (sources.file !== undefined) fromFile(sources.file, given, faults);
  fromEnvironment(settings, sources.env ?? {}, given);
  fromFlags(sources.flags ?? [], given, faults);
  for (const [name, { place }] of given) {
    if (!Object.hasOwn(settings, name)) faults.push(`${place}: no such setting`);
  }
  return given;
}

/** A text that looks like a number is still a text where one is asked for. */
function check(setting: Setting<unknown>, found: Given | undefined) {
  const result = setting.type.safeParse(found === undefined ? undefined : readScalar(found));
  return result.success || typeof found?.value !== "string" ? result : setting.type.safeParse(found.value);
}

/**
 * Reads settings from file, environment and flags, later ones winning. Everything is checked before anything is
 * refused: the error lists all faults.
 */
export function loadConfig<S extends Settings>(settings: S, sources: ConfigSources): ConfigOf<S> {
  const faults: string[] = [];
  const given = gather(settings, sources, faults);
  const config: Record<string, unknown> = {};
  for (const [name, setting] of Object.entries(settings)) {
    const found = given.get(name);
    const result = check(setting, found);
    if (result.success) config[name] = result.data;
    else faults.push(`${found?.place ?? `setting ${name}`}: ${problem(result.error)} (${setting.description})`);
  }
  if (faults.length > 0) throw new ConfigError(faults);
  return config as ConfigOf<S>;
}

/** Milliseconds from a number or a text such as `500ms`, `10s`, `5m`, `1h`, `7d`. */
export const durationMs = z.union([
  z.number().nonnegative(),
  z
    .string()
    .regex(/^\d+(\.\d+)?(ms|s|m|h|d)$/, "must be a duration such as 500ms, 10s, 5m, 1h or 7d")
    .transform((text) => {
      const unit = text.replace(/[\d.]/g, "") as "ms" | "s" | "m" | "h" | "d";
      return Number.parseFloat(text) * { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }[unit];
    }),
]) as z.ZodType<number>;
