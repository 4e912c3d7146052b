import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { foldersOf } from "./protect.ts";

test("folders of patterns are those that are there, and none where a way leads in a circle", async () => {
  const rootfs = mkdtempSync(join(tmpdir(), "gabion-folders-"));
  const patterns = ["/etc/passwd", "/srv/kept/*", "/home/*/.ssh/*"];
  try {
    mkdirSync(join(rootfs, "srv/kept/below"), { recursive: true });
    mkdirSync(join(rootfs, "etc"));
    const found = await foldersOf(rootfs, patterns, 10);
    expect(found.map(({ path }) => path.toString())).toEqual(["/etc", "/srv/kept", "/srv/kept/below"]);
    expect(await foldersOf(rootfs, patterns, 2)).toHaveLength(2);
    renameSync(join(rootfs, "srv"), join(rootfs, "moved"));
    symlinkSync("srv", join(rootfs, "srv"));
    expect(await foldersOf(rootfs, patterns, 10)).toHaveLength(1);
  } finally {
    rmSync(rootfs, { recursive: true });
  }
});
