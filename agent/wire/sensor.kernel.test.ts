import { mkdirSync, rmdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CONTAINERS, missing } from "../../test/requirements.ts";
import { until } from "../../tools/demo/until.ts";
import { unifiedMount } from "../../tools/sandbox/runc.ts";
import { Sensor } from "./sensor.ts";

const onKernel = test.skipIf(missing(...CONTAINERS) !== "");
const BINARY = resolve(import.meta.dirname, "../../.cache/sensor/gabion-sensor");
const SCOPE = `/gabion-sensor-${process.pid}`;
/** Longer than a sensor may take to answer. */
const BUSY_MS = 2_000;

describe("a sensor that is asked whether it lives", () => {
  let sensor: Sensor;
  let ended = "";

  beforeAll(async () => {
    if (missing(...CONTAINERS) !== "") return;
    mkdirSync(join(unifiedMount(), SCOPE));
    const options = { binary: BINARY, scope: SCOPE, mount: unifiedMount(), holdMs: 0, onFrame: () => {} };
    ({ sensor } = await Sensor.open({ ...options, onEnd: (reason) => (ended = reason) }));
  });
  afterAll(async () => {
    await sensor?.[Symbol.asyncDispose]();
    rmdirSync(join(unifiedMount(), SCOPE));
  });

  onKernel("is not taken for dead where the agent had no time to read its answer", async () => {
    const answer = sensor.ping();
    const deadline = performance.now() + BUSY_MS;
    while (performance.now() < deadline);
    await answer;
    // And it lives on.
    await sensor.ping();
    expect(ended).toBe("");
  });

  onKernel("is ended where it does not answer", async () => {
    process.kill(sensor.pid, "SIGSTOP");
    await expect(sensor.ping()).rejects.toThrow("an order was not answered within 1.5 s");
    await until("its end", 5_000, () => ended || undefined);
  });
});
