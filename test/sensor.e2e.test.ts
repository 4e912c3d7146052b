import { execFile, spawn } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { until } from "../tools/demo/until.ts";
import { testProgram } from "../tools/sandbox/programs.ts";
import { Sandbox } from "../tools/sandbox/runc.ts";
import { GABION } from "./fixtures/scene.ts";
import { CONTAINERS, missing } from "./requirements.ts";

const run = promisify(execFile);
const endToEnd = test.skipIf(missing(...CONTAINERS) !== "");

endToEnd("`gabion sensor capabilities` says what this kernel can do", async () => {
  const { stdout } = await run(GABION, ["sensor", "capabilities"]);
  expect(stdout).toMatch(/program groups: process, cgroup/);
  expect(stdout).toMatch(/network +prevent +denied/);
  expect(stdout).toMatch(/syscall +prevent +not-possible/);
});

endToEnd("`gabion sensor trace` shows raw events of one container live, filtered, and stops nothing", async () => {
  const directory = mkdtempSync(join(tmpdir(), "gabion-trace-"));
  await using sandbox = await Sandbox.open(`gabion-trace-${process.pid}`, directory);
  const web = sandbox.start("web", {
    args: ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"],
    programs: ["/bin/sh", "/bin/sleep"],
    files: { "/opt/netprobe": { content: testProgram("netprobe"), mode: 0o755 } },
  });
  await web.addAddresses("203.0.113.5");
  const trace = async (...flags: string[]) => {
    const child = spawn(GABION, ["sensor", "trace", "web", "--runc-root", sandbox.runcRoot, ...flags]);
    let output = "";
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (output += chunk.toString()));
    await until("the trace to begin", 20_000, () => output.includes("tracing") || undefined);
    return {
      lines: () => output.split("\n"),
      end: async () => {
        const ended = new Promise((done) => child.once("exit", done));
        child.kill("SIGINT");
        await ended;
      },
    };
  };
  const all = await trace();
  const { output } = await web.exec("/opt/netprobe", "tcp", "203.0.113.5", "443");
  expect(output.trim()).toBe("ECONNREFUSED");
  await web.exec("/bin/sh", "-c", "echo x > /tmp/file");
  for (const pattern of [
    / exec +\d+ +\S+ +\/opt\/netprobe \/opt\/netprobe tcp 203\.0\.113\.5 443/,
    / connect +\d+ +\/opt\/netprobe +203\.0\.113\.5 tcp\/443 \[internet direct\]/,
    / contact .*203\.0\.113\.5 tcp\/443 failed \(errno 111\)/,
    / file +\d+ +\/bin\/sh +create \/tmp\/file/,
    / syscall .*first use of connect/,
  ]) {
    await until(`a line like ${pattern}`, 10_000, () => all.lines().some((line) => pattern.test(line)) || undefined);
  }
  await all.end();
  const some = await trace("--kind", "connect", "--match", "tcp/444");
  for (const port of ["443", "444"]) await web.exec("/opt/netprobe", "tcp", "203.0.113.5", port);
  await until("the filtered line", 10_000, () => some.lines().some((line) => line.includes("tcp/444")) || undefined);
  expect(some.lines().some((line) => line.includes("tcp/443") || line.includes(" exec "))).toBe(false);
  await some.end();
});
