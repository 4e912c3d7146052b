import { execFileSync } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { HashCache } from "./hash-cache.ts";
import { readManifest } from "./manifest.ts";

function rootfs(): string {
  const root = mkdtempSync(join(tmpdir(), "gabion-manifest-"));
  onTestFinished(() => rm(root, { recursive: true, force: true }));
  writeFileSync(join(root, "program"), "#!/bin/sh\n", { mode: 0o755 });
  return root;
}

const read = (root: string, signal = AbortSignal.timeout(10_000)) => readManifest(root, new HashCache(), signal);

test("a folder that is too deep to be read leaves the rest, and the manifest is not whole", async () => {
  const root = rootfs();
  expect((await read(root)).isComplete).toBe(true);
  // Step by step: no call takes a path that long.
  const name = "d".repeat(250);
  execFileSync("/bin/sh", [
    "-c",
    `cd "$0"; i=0; while [ $i -lt 20 ]; do mkdir ${name}; cd -P ${name}; i=$((i+1)); done`,
    root,
  ]);
  onTestFinished(() => void execFileSync("rm", ["-rf", root]));
  const manifest = await read(root);
  expect(manifest.isComplete).toBe(false);
  expect([...manifest.executables.keys()]).toEqual(["/program"]);
});

test("what there was no time for leaves the rest out", async () => {
  const manifest = await read(rootfs(), AbortSignal.abort());
  expect(manifest.isComplete).toBe(false);
  expect(manifest.executables.size).toBe(0);
});
