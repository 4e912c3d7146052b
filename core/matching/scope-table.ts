import { fromJson, type JsonValue } from "@bufbuild/protobuf";
import { type Container, ContainerSchema } from "#gen/gabion/workload/v1/workload_pb.ts";

/** One line of the table: a scope, a container, whether they match, and why. */
export interface ScopeCase {
  readonly container: string;
  readonly scope: Readonly<Record<string, string[]>>;
  readonly isMatch: boolean;
  readonly why: string;
}

export interface ScopeTable {
  readonly containers: Readonly<Record<string, Container>>;
  readonly cases: readonly ScopeCase[];
}

/** Reads the table of `testdata/scope.json`. */
export function parseScopeTable(text: string): ScopeTable {
  const { containers, cases } = JSON.parse(text) as { containers: Record<string, JsonValue>; cases: ScopeCase[] };
  const entries = Object.entries(containers).map(([name, json]) => [name, fromJson(ContainerSchema, json)] as const);
  return { containers: Object.fromEntries(entries), cases };
}

function containerLine([name, of]: readonly [string, Container]): string {
  const { namespace, cluster } = of.modelScope ?? {};
  const labels = Object.entries(of.labels).map(([key, value]) => `${key}:${value}`);
  const cells = [name, of.image?.name, of.image?.digest, of.name, namespace, cluster, of.nodeId, labels.join(", ")];
  return `| ${cells.map((cell) => (cell ? shortened(cell) : "–")).join(" | ")} |`;
}

/** Digests of one repeated digit are shown by their beginning. */
function shortened(text: string): string {
  return text.replace(/(?<=sha256:)(.)\1{63}/gi, "$1$1$1$1…");
}

function caseLine({ container, scope, isMatch, why }: ScopeCase): string {
  const fields = Object.entries(scope).map(([field, list]) => `${field}: ${list.map((p) => `\`${p}\``).join(", ")}`);
  const shown = fields.length === 0 ? "(nothing)" : shortened(fields.join("; "));
  return `| ${shown} | ${container} | ${isMatch ? "yes" : "no"} | ${why} |`;
}

/** The table as people read it. */
export function scopeMarkdown({ containers, cases }: ScopeTable): string {
  return [
    "# Which containers a scope applies to",
    "",
    "Each field of a scope is a list of patterns. `*` stands for anything, also for nothing; every other character for itself; letter",
    "case does not count. A pattern without a star must be the whole value. One pattern of a field suffices. A pattern with a leading",
    "`-` excludes, and exclusions are tried first. All fields must match; an empty field matches everything, and so does a field with",
    "exclusions alone whatever they do not name. Image names are compared in their full form: `nginx` is",
    "`docker.io/library/nginx:latest`.",
    "",
    "Made from `testdata/scope.json`, which the tests run too (`node tools/codegen/scope-table.ts`).",
    "",
    "| container | image | digest | name | namespace | cluster | host | labels |",
    "|---|---|---|---|---|---|---|---|",
    ...Object.entries(containers).map(containerLine),
    "",
    "| scope | container | applies | why |",
    "|---|---|---|---|",
    ...cases.map(caseLine),
    "",
  ].join("\n");
}
