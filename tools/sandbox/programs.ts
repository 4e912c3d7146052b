import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, statSync } from "node:fs";
import { join, resolve } from "node:path";

const SOURCES = resolve(import.meta.dirname, "../../test/fixtures/programs");
const BUILT = resolve(import.meta.dirname, "../../.cache/programs");

/** Programs without a C library. */
const BARE = ["trap", "nothing"];

function isNewer(a: string, b: string): boolean {
  try {
    return statSync(a).mtimeMs > statSync(b).mtimeMs;
  } catch {
    return false;
  }
}

/** A static program for tests and measurements, built from C where it is not there yet. */
export function testProgram(
  name: "trap" | "memfd" | "spawn" | "nothing" | "netprobe" | "callprobe" | "mix" | "ringprobe",
): Buffer {
  const source = join(SOURCES, `${name}.c`);
  const built = join(BUILT, name);
  mkdirSync(BUILT, { recursive: true });
  const bare = BARE.includes(name) ? ["-nostdlib"] : [];
  if (!isNewer(built, source)) execFileSync("cc", ["-O2", "-static", ...bare, source, "-o", built]);
  return readFileSync(built);
}
