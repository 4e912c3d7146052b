import type { Scope } from "#gen/gabion/rule/v1/rule_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import { canonicalImage, canonicalPrefix } from "./image-name.ts";
import { compilePattern } from "./pattern.ts";

/** Fields of a scope in the order in which they are compared, with patterns in canonical form. */
export function scopeFields(
  scope: Scope | undefined,
): readonly { readonly name: string; readonly patterns: readonly string[] }[] {
  const canonical = (source: string) =>
    source.startsWith("-") ? `-${imagePattern(source.slice(1))}` : imagePattern(source);
  const field = (name: string, patterns: readonly string[] = []) => ({
    name,
    patterns: patterns.map((pattern) => pattern.toLowerCase()),
  });
  return [
    field("image", scope?.images.map(canonical)),
    field("container", scope?.containers),
    field("namespace", scope?.namespaces),
    field("cluster", scope?.clusters),
    field("host", scope?.hosts),
    field("label", scope?.labels),
  ];
}

/** Answer of a scope: whether it matches and, if not, the field that did not. */
export type ScopeAnswer = { readonly isMatch: true } | { readonly isMatch: false; readonly reason: string };

export type CompiledScope = (container: Container) => ScopeAnswer;

type FieldName = "image" | "container" | "namespace" | "cluster" | "host" | "label";

interface ScopePattern {
  readonly source: string;
  /** Of a text in lower case. */
  readonly matches: (text: string) => boolean;
}

interface CompiledField {
  readonly name: FieldName;
  readonly includes: readonly ScopePattern[];
  readonly excludes: readonly ScopePattern[];
}

function imageTexts(container: Container): string[] {
  const image = container.image;
  if (!image) return [];
  if (image.name === "") return [image.digest];
  const name = canonicalImage(image.name);
  // With tag and digest it is that tag too.
  const [tagged = ""] = name.split("@");
  const hasBoth = tagged !== name && tagged.lastIndexOf(":") > tagged.lastIndexOf("/");
  return [name, ...(hasBoth ? [tagged] : []), image.digest];
}

/** An image pattern is brought to canonical form as far as its wildcards leave it known, so that `nginx` means what it says. */
function imagePattern(source: string): string {
  if (source.startsWith("*") || /^sha256:/i.test(source)) return source;
  return source.includes("*") ? canonicalPrefix(source) : canonicalImage(source);
}

/** What a container shows to each field of a scope, in lower case: letter case does not count. */
export type ScopeTexts = Readonly<Record<FieldName, readonly string[]>>;

function compileField(
  name: FieldName,
  sources: readonly string[],
  normalize: (source: string) => string = (source) => source,
): CompiledField {
  const compile = (source: string): ScopePattern => {
    const normal = normalize(source);
    return { source: normal, matches: compilePattern(normal.toLowerCase()).matches };
  };
  return {
    name,
    includes: sources.filter((s) => !s.startsWith("-")).map(compile),
    excludes: sources.filter((s) => s.startsWith("-")).map((s) => compile(s.slice(1))),
  };
}

const READERS: Readonly<Record<FieldName, (container: Container) => readonly string[]>> = {
  image: imageTexts,
  container: ({ name }) => [name],
  namespace: ({ modelScope }) => [modelScope?.namespace ?? ""],
  cluster: ({ modelScope }) => [modelScope?.cluster ?? ""],
  host: ({ nodeId }) => [nodeId],
  label: ({ labels }) => Object.entries(labels).map(([key, value]) => `${key}:${value}`),
};

function readField(name: FieldName, container: Container): readonly string[] {
  const texts = READERS[name](container);
  // What is not there is matched as an empty text: by `*`, and by nothing else.
  return texts.length === 0 ? [""] : texts;
}

/** What a container shows to scopes, read once for many of them. */
export function scopeTexts(container: Container): ScopeTexts {
  const read = (name: FieldName) => readField(name, container).map((text) => text.toLowerCase());
  return {
    image: read("image"),
    container: read("container"),
    namespace: read("namespace"),
    cluster: read("cluster"),
    host: read("host"),
    label: read("label"),
  };
}

function isAny(patterns: readonly ScopePattern[], texts: readonly string[]): boolean {
  for (const { matches } of patterns) for (const text of texts) if (matches(text)) return true;
  return false;
}

function fits({ includes, excludes }: CompiledField, texts: readonly string[]): boolean {
  return !isAny(excludes, texts) && (includes.length === 0 || isAny(includes, texts));
}

function mismatch({ name, includes, excludes }: CompiledField, container: Container): string {
  const texts = readField(name, container);
  const shown = texts.map((text) => (text === "" ? "nothing" : `\`${text}\``)).join(", ");
  const excluded = excludes.find(({ matches }) => texts.some((text) => matches(text.toLowerCase())));
  if (excluded) return `${name}: ${shown} is excluded by \`-${excluded.source}\``;
  return `${name}: ${shown} matches none of ${includes.map(({ source }) => `\`${source}\``).join(", ")}`;
}

function compileFields(scope: Scope | undefined): readonly CompiledField[] {
  return [
    compileField("image", scope?.images ?? [], imagePattern),
    compileField("container", scope?.containers ?? []),
    compileField("namespace", scope?.namespaces ?? []),
    compileField("cluster", scope?.clusters ?? []),
    compileField("host", scope?.hosts ?? []),
    compileField("label", scope?.labels ?? []),
  ].filter((field) => field.includes.length + field.excludes.length > 0);
}

/** Compiles a scope for choosing among many: whether it matches, and nothing else. */
export function compileScopeMatch(scope: Scope | undefined): (texts: ScopeTexts) => boolean {
  const fields = compileFields(scope);
  return (texts) => fields.every((field) => fits(field, texts[field.name]));
}

/**
 * Compiles a scope; SCOPE.md shows what matches what. Within a field one pattern suffices and an exclusion wins; all fields
 * must match; a field without patterns matches everything, one with exclusions only whatever is not excluded.
 */
export function compileScope(scope: Scope | undefined): CompiledScope {
  const fields = compileFields(scope);
  return (container) => {
    const texts = scopeTexts(container);
    const field = fields.find((each) => !fits(each, texts[each.name]));
    return field ? { isMatch: false, reason: mismatch(field, container) } : { isMatch: true };
  };
}
