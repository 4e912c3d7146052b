import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { z } from "zod";
import { ConfigError, durationMs, loadConfig } from "./config.ts";

const settings = {
  "listen.port": { type: z.number().int().max(65_535).default(80), description: "port" },
  "data.directory": { type: z.string().default("data"), description: "folder" },
  "model.dryRun": { type: durationMs.default(1_000), description: "dry run" },
  "agent.hold": { type: z.boolean().default(false), description: "hold" },
};

function file(text: string): string {
  const path = join(mkdtempSync(join(tmpdir(), "gabion-config-")), "gabion.yaml");
  writeFileSync(path, text);
  return path;
}

test("flags win over environment, environment over file, file over defaults", () => {
  const config = loadConfig(settings, {
    file: file("listen:\n  port: 1\ndata.directory: /file\nmodel.dryRun: 5m\n"),
    env: { GABION_LISTEN_PORT: "2", GABION_DATA_DIRECTORY: "/env" },
    flags: ["listen.port=3", "agent.hold=true"],
  });
  expect(config).toEqual({ "listen.port": 3, "data.directory": "/env", "model.dryRun": 300_000, "agent.hold": true });
});

test("every fault is listed with its place", () => {
  const path = file("listen: { port: high }\nlisen: 1\n");
  const load = () =>
    loadConfig(settings, { file: path, env: { GABION_MODEL_DRY_RUN: "soon" }, flags: ["nothing", "agent.hold=maybe"] });
  expect(load).toThrow(ConfigError);
  try {
    load();
  } catch (error) {
    const { faults } = error as ConfigError;
    expect(faults).toHaveLength(5);
    for (const place of [
      `${path}: listen.port`,
      `${path}: lisen`,
      "environment: GABION_MODEL_DRY_RUN",
      "flag `nothing`",
      "flag: agent.hold",
    ]) {
      expect(
        faults.some((fault) => fault.startsWith(place)),
        place,
      ).toBe(true);
    }
  }
});

test("a text that looks like a number stays a text", () => {
  expect(loadConfig(settings, { flags: ["data.directory=0123"] })["data.directory"]).toBe("0123");
});
