import type { Scope } from "#gen/gabion/rule/v1/rule_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import { canonicalImage, canonicalPrefix } from "./image-name.ts";
import { compilePattern, type Pattern } from "./pattern.ts";

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

interface CompiledField {
  readonly name: string;
  readonly includes: readonly Pattern[];
  readonly excludes: readonly Pattern[];
  readonly read: (container: Container) => readonly string[];
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

function compileField(
  name: string,
  sources: readonly string[],
  read: CompiledField["read"],
  normalize: (source: string) => string = (source) => source,
): CompiledField {
  const options = { ignoreCase: true };
  return {
    name,
    includes: sources.filter((s) => !s.startsWith("-")).map((s) => compilePattern(normalize(s), options)),
    excludes: sources.filter((s) => s.startsWith("-")).map((s) => compilePattern(normalize(s.slice(1)), options)),
    read,
  };
}

function mismatch(field: CompiledField, texts: readonly string[]): string | undefined {
  const shown = texts.map((text) => (text === "" ? "nothing" : `\`${text}\``)).join(", ");
  const excluded = field.excludes.find((pattern) => texts.some(pattern.matches));
  if (excluded) return `${field.name}: ${shown} is excluded by \`-${excluded.source}\``;
  if (field.includes.length === 0 || field.includes.some((pattern) => texts.some(pattern.matches))) return undefined;
  return `${field.name}: ${shown} matches none of ${field.includes.map((p) => `\`${p.source}\``).join(", ")}`;
}

/**
 * Compiles a scope; SCOPE.md shows what matches what. Within a field one pattern suffices and an exclusion wins; all fields must match; a field without
 * patterns matches everything, a field with exclusions only matches whatever is not excluded.
 */
export function compileScope(scope: Scope | undefined): CompiledScope {
  const fields = [
    compileField("image", scope?.images ?? [], imageTexts, imagePattern),
    compileField("container", scope?.containers ?? [], (c) => [c.name]),
    compileField("namespace", scope?.namespaces ?? [], (c) => [c.modelScope?.namespace ?? ""]),
    compileField("cluster", scope?.clusters ?? [], (c) => [c.modelScope?.cluster ?? ""]),
    compileField("host", scope?.hosts ?? [], (c) => [c.nodeId]),
    compileField("label", scope?.labels ?? [], (c) => Object.entries(c.labels).map(([k, v]) => `${k}:${v}`)),
  ].filter((field) => field.includes.length + field.excludes.length > 0);
  return (container) => {
    for (const field of fields) {
      const texts = field.read(container);
      // What is not there is matched as an empty text: by `*`, and by nothing else.
      const reason = mismatch(field, texts.length === 0 ? [""] : texts);
      if (reason !== undefined) return { isMatch: false, reason };
    }
    return { isMatch: true };
  };
}
