import { readFileSync } from "node:fs";
import { join } from "node:path";

/** Version of this Gabion, from its package. */
export function gabionVersion(): string {
  const text = readFileSync(join(import.meta.dirname, "../../package.json"), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}
