/** Makes `core/matching/SCOPE.md` of the table that the tests run. */

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseScopeTable, scopeMarkdown } from "#core/matching/scope-table.ts";

const folder = join(import.meta.dirname, "../../core/matching");
const table = parseScopeTable(readFileSync(join(folder, "testdata/scope.json"), "utf8"));
writeFileSync(join(folder, "SCOPE.md"), scopeMarkdown(table));
