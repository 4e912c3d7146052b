/** What the hook at the end of system calls costs by itself: the kernel runs a program there that does nothing. */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";

const SOURCES = resolve(import.meta.dirname, "empty-program");
const BUILT = resolve(import.meta.dirname, "../../.cache/empty-program");

/** Builds program and loader, which takes about a second. */
export function buildEmptyProgram(): void {
  mkdirSync(BUILT, { recursive: true });
  // The headers of the architecture, which clang looks for in another place when it builds for the kernel.
  const triplet = execFileSync("cc", ["-print-multiarch"], { encoding: "utf8" }).trim();
  const flags = ["-O2", "-g", "-target", "bpf", `-I/usr/include/${triplet}`];
  execFileSync("clang", [...flags, "-c", join(SOURCES, "empty.bpf.c"), "-o", join(BUILT, "empty.bpf.o")]);
  execFileSync("cc", ["-O2", join(SOURCES, "attach.c"), "-lbpf", "-o", join(BUILT, "attach")]);
}

/** Has the kernel run the empty program until it is disposed of. */
export async function attachEmptyProgram(): Promise<AsyncDisposable> {
  const stdio = ["pipe", "pipe", "inherit"] as const;
  const child = spawn(join(BUILT, "attach"), [join(BUILT, "empty.bpf.o")], { stdio: [...stdio] });
  const ended = once(child, "exit");
  const first = await Promise.race([once(child.stdout, "data"), ended]);
  if (!String(first[0]).startsWith("attached")) throw new Error("the empty program could not be attached");
  return {
    [Symbol.asyncDispose]: async () => {
      child.stdin.end();
      await ended;
    },
  };
}
