import { execFile, spawn } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { AuditService, SubmitAuditsRequestSchema } from "#gen/gabion/audit/v1/audit_service_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { RuleService } from "#gen/gabion/rule/v1/rule_service_pb.ts";
import { freePort } from "#lib/bus/server.ts";
import { readCredentials } from "#lib/pki/credentials.ts";
import { createRpcClient } from "#lib/rpc/client.ts";
import { until } from "../tools/demo/until.ts";
import { childrenOf, GABION, Scene, SHORT } from "./fixtures/scene.ts";
import { CONTAINERS, missing } from "./requirements.ts";

const run = promisify(execFile);
const ROOT = resolve(import.meta.dirname, "..");
const reason = missing(...CONTAINERS, "nats");
const endToEnd = test.skipIf(reason !== "");
const LOOP = ["/bin/sh", "-c", "while true; do /bin/date > /tmp/now; /bin/sleep 0.2; done"];
const PROGRAMS = ["/bin/sh", "/bin/date", "/bin/sleep", "/bin/id", "/bin/nc"];

endToEnd("the demo tells its whole story, exactly as the README shows it, and ends with 0", async () => {
  const { stdout } = await run(GABION, ["demo"], { timeout: 150_000 });
  const readme = readFileSync(join(ROOT, "README.md"), "utf8");
  expect(readme).toContain(stdout.trimEnd());
});

endToEnd("a file that somebody lists as bad is found in a container that writes it", async () => {
  await using scene = await Scene.open("bad");
  const web = scene.sandbox.start("web", { args: LOOP, programs: [...PROGRAMS, "/bin/cp"] });
  await scene.observer.modelOf("web");
  const content = "a file that is known to be bad\n";
  const hash = createHash("sha256").update(content).digest("hex");
  const added = await scene.gabion("intel", "add", hash, "--description", "a dropper");
  expect(added).toMatchObject({ status: 0 });
  expect((await scene.gabion("intel", "look-up", hash)).stdout).toContain("is listed as");
  const audit = await until("the audit of the file", 20_000, async () => {
    // The agent hears of it within a moment: until then the file is like any other.
    await web.exec("/bin/sh", "-c", `echo "${content.trim()}" > /tmp/download`);
    const { stdout } = await scene.gabion("audits", "-o", "json");
    const all = JSON.parse(stdout) as { message?: string; intelVersion?: string }[];
    return all.find(({ message }) => message?.includes("with the content of a bad file"));
  });
  expect(audit.message).toContain("`/tmp/download` was written");
  expect(audit.message).toContain("listed by own: a dropper");
  expect(audit.intelVersion).toMatch(/^set-\d+$/);
  // Addresses go the same way, and explanations know of them as nodes do.
  await scene.gabion("intel", "add", "203.0.113.0/24", "--description", "a botnet");
  await scene.gabion("intel", "add", "203.0.113.7", "--exception");
  const explained = async (to: string) => (await scene.gabion("explain", "--container", "web", "--connect", to)).stdout;
  expect(await explained("203.0.113.9:443")).toContain(
    "detection: `203.0.113.9` tcp/443 is within the bad addresses `203.0.113.0/24`, listed by own: a botnet",
  );
  expect(await explained("203.0.113.7:443")).not.toContain("bad addresses");
});

endToEnd("the command lists, shows, changes and refuses", async () => {
  await using scene = await Scene.open("cli");
  const web = scene.sandbox.start("web", { args: LOOP, programs: PROGRAMS });
  const { modelKey } = await scene.observer.modelOf("web");
  await scene.observer.modelInState(modelKey, LearningState.ACTIVE);
  await web.exec("/bin/id");
  await scene.observer.auditWhere("id", (a) => a.event?.actor?.path === "/bin/id");

  expect((await scene.gabion("models")).stdout).toContain(modelKey);
  const shown = (await scene.gabion("models", "get", modelKey.slice(0, 10))).stdout;
  expect(shown).toContain("/bin/date");
  expect(shown).toMatch(/completeness: .* with 95 %/);
  const audits = JSON.parse((await scene.gabion("audits", "-o", "json")).stdout) as {
    message?: string;
    auditId: string;
  }[];
  const audit = audits.find((a) => a.message?.includes("/bin/id"));
  expect((await scene.gabion("audits", "get", audit?.auditId ?? "")).stdout).toContain("nearest");
  expect((await scene.gabion("nodes")).stdout).toContain("connected");
  expect((await scene.gabion("nodes", "get", "local")).stdout).toContain("process prevent: denied");
  expect((await scene.gabion("rules")).stdout).toContain("Default - alert on suspicious runtime behavior");

  const file = join(scene.data, "rule.yaml");
  writeFileSync(
    file,
    "name: mine\nscope: { containers: [web] }\nprocess: { effect: EFFECT_PREVENT, denied: [{ process: nc }] }\n",
  );
  expect(await scene.gabion("rules", "create", "-f", file)).toMatchObject({
    status: 0,
    stdout: "rule `mine` created\n",
  });
  const again = await scene.gabion("rules", "create", "-f", file);
  expect(again).toMatchObject({ status: 2 });
  expect(again.stderr).toContain("rule.name: `mine` is the name of another rule");
  writeFileSync(file, "name: odd\nproces: {}\n");
  expect((await scene.gabion("rules", "create", "-f", file)).stderr).toMatch(/key "proces" is unknown|unknown/);
  expect((await scene.gabion("rules", "disable", "mine")).stdout).toContain("disabled");
  expect((await scene.gabion("rules", "move", "mine", "1")).status).toBe(0);
  expect((await scene.gabion("rules", "history")).stdout).toMatch(/move.*mine/);
  expect(await scene.gabion("models", "get", "m-nothing")).toMatchObject({ status: 2 });
  expect((await scene.gabion("no-such-command")).status).toBe(2);
  expect((await scene.gabion("--help")).stdout).toContain("audits");

  // A watcher sees the model as it is, and each change.
  const abort = new AbortController();
  const states: LearningState[] = [];
  const watching = (async () => {
    for await (const { model } of scene.local.connection.models.watchModels({ modelKey }, { signal: abort.signal })) {
      if (model) states.push(model.state);
    }
  })().catch(() => {});
  await until("the model as it is", 10_000, () => (states.length > 0 ? true : undefined));
  expect((await scene.gabion("models", "learn-start", modelKey)).stdout).toContain("manual-learning");
  await until("the change", 10_000, () => states.includes(LearningState.MANUAL_LEARNING) || undefined);
  expect((await scene.gabion("models", "learn-stop", modelKey)).stdout).toContain("active");
  abort.abort();
  await watching;
  expect(states[0]).toBe(LearningState.ACTIVE);

  const stopped = await scene.gabion("containers", "stop", "web", "--reason", "exercise");
  expect(stopped.stdout).toMatch(/verdict v-.* issued/);
  await scene.observer.auditWhere(
    "the verdict's result",
    (a) => a.system?.name === "verdict_result" && a.system.isSuccess,
  );
  expect((await web.ended).status).toBe(137);
});

endToEnd("a second agent that presents the same node is refused until the first is gone", async () => {
  await using scene = await Scene.open("twin");
  const endpoints = JSON.parse(readFileSync(join(scene.data, "endpoints.json"), "utf8")) as Record<string, string>;
  const credentials = readCredentials(join(scene.data, "pki"), "node/local");
  using rpc = createRpcClient({ url: endpoints["audit"] ?? "", credentials, expects: "service/audit" });
  const client = createClient(AuditService, rpc.transport);
  const hello = { protocolVersion: 1, nodeId: "local", agentRunId: randomUUID(), capabilities: {} };
  const open = async (nodeId: string) => {
    async function* requests() {
      yield create(SubmitAuditsRequestSchema, { hello: { ...hello, nodeId } });
      await new Promise((done) => setTimeout(done, 2_000));
    }
    for await (const answer of client.submitAudits(requests())) return answer;
    return undefined;
  };
  const twin = await open("local").catch((error: unknown) => ConnectError.from(error));
  expect(twin).toMatchObject({ code: Code.AlreadyExists });
  expect((twin as ConnectError).rawMessage).toMatch(/another agent presents node `local`/);
  const foreign = await open("other").catch((error: unknown) => ConnectError.from(error));
  expect(foreign).toMatchObject({ code: Code.PermissionDenied });
});

endToEnd("an agent without its control plane goes on enforcing, and tells afterwards what it saw, once", async () => {
  await using scene = await Scene.open("away");
  const web = scene.sandbox.start("web", { args: LOOP, programs: PROGRAMS });
  const { modelKey } = await scene.observer.modelOf("web");
  await scene.observer.modelInState(modelKey, LearningState.ACTIVE);
  await scene.observer.enforceRule({ name: "deny", process: { effect: Effect.PREVENT, denied: [{ process: "nc" }] } });
  const ports = Object.fromEntries(
    Object.entries(JSON.parse(readFileSync(join(scene.data, "endpoints.json"), "utf8")) as Record<string, string>).map(
      ([k, v]) => [k, new URL(v).port],
    ),
  );

  // The services and NATS die at once; the agent is a process of its own and lives.
  const [agentPid] = await childrenOf(scene.local.process.pid ?? 0, "agent/main.ts");
  const [natsPid] = await childrenOf(scene.local.process.pid ?? 0, "nats-server");
  scene.local.process.kill("SIGKILL");
  process.kill(natsPid ?? 0, "SIGKILL");
  expect(agentPid).toBeGreaterThan(0);
  try {
    const denied = await Promise.all([1, 2, 3].map(() => web.exec("/bin/nc", "-h")));
    for (const { output } of denied) expect(output).toContain("operation not permitted");
    expect(await web.isRunning()).toBe(true);

    // The same ports again, without a second agent: the first one comes back by itself.
    const natsPort = /port: (\d+)/.exec(readFileSync(join(scene.data, "nats/nats.conf"), "utf8"))?.[1] ?? "";
    const flags = [
      `data.directory=${scene.data}`,
      `nats.port=${natsPort}`,
      ...Object.entries(ports).map(([k, v]) => `${k}.port=${v}`),
      ...SHORT,
    ];
    const args = [
      join(ROOT, "services/all-in-one/main.ts"),
      ...flags.flatMap((f) => ["--set", f]),
      "--set",
      "agent.scope=/gabion-none",
    ];
    const again = spawn(process.execPath, args, { stdio: "ignore" });
    try {
      const found = await until("the audits of the dark time", 60_000, async () => {
        const answer = await scene.local.connection.audits
          .listAudits({ filter: { ruleName: "deny" } })
          .catch(() => undefined);
        const count = answer?.audits.reduce((sum, a) => sum + a.count, 0n) ?? 0n;
        return count >= 3n ? answer?.audits : undefined;
      });
      expect(found.reduce((sum, a) => sum + a.count, 0n)).toBe(3n);
      expect(new Set(found.map((a) => a.auditId)).size).toBe(found.length);
    } finally {
      again.kill("SIGTERM");
      await new Promise((done) => again.once("exit", done));
    }
  } finally {
    process.kill(agentPid ?? 0, "SIGTERM");
  }
});

endToEnd("an agent that is killed leaves a gap that is told, and nothing acknowledged is lost or doubled", async () => {
  await using scene = await Scene.open("kill");
  const web = scene.sandbox.start("web", { args: LOOP, programs: PROGRAMS });
  const { modelKey } = await scene.observer.modelOf("web");
  await scene.observer.modelInState(modelKey, LearningState.ACTIVE);
  await web.exec("/bin/id");
  await scene.observer.auditWhere("id", (a) => a.event?.actor?.path === "/bin/id");
  const before = await scene.local.connection.audits.listAudits({ pageSize: 1000 });

  for (const victim of ["agent/main.ts", "all"]) {
    if (victim === "all") scene.local.process.kill("SIGKILL");
    else process.kill((await childrenOf(scene.local.process.pid ?? 0, victim))[0] ?? 0, "SIGKILL");
  }
  for (const pid of await childrenOf(1, scene.data)) process.kill(pid, "SIGKILL");
  await until("the sensor to be gone", 10_000, async () =>
    (await childrenOf(1, scene.sandbox.scope)).length === 0 ? true : undefined,
  );

  await scene.start();
  const after = await until("the gap to be told", 20_000, async () => {
    const { audits } = await scene.local.connection.audits.listAudits({ pageSize: 1000 });
    return audits.some((a) => a.system?.name === "agent_run_gap") ? audits : undefined;
  });
  const ids = after.map((a) => a.auditId);
  expect(before.audits.filter((a) => !ids.includes(a.auditId))).toEqual([]);
  expect(new Set(ids).size).toBe(ids.length);
  // The container that ran all the while is found again, and said to be seen in part.
  const { containers } = await until("the container", 10_000, async () => {
    const answer = await scene.local.connection.fleet.listContainers({});
    return answer.containers.length === 1 ? answer : undefined;
  });
  expect(containers[0]).toMatchObject({ containerId: "web", partlySeen: true, modelKey });
});

endToEnd("each service runs as a process of its own", async () => {
  await using scene = await Scene.open("alone");
  const settings = [
    `data.directory=${join(scene.data, "alone")}`,
    `pki.directory=${join(scene.data, "pki")}`,
    "listen.port=0",
  ];
  const natsPort = /port: (\d+)/.exec(readFileSync(join(scene.data, "nats/nats.conf"), "utf8"))?.[1] ?? "";
  for (const name of ["model", "rule", "intel", "audit"]) {
    const flags = [...settings, `nats.servers=127.0.0.1:${natsPort}`].flatMap((f) => ["--set", f]);
    const child = spawn(GABION, ["service", name, ...flags], { stdio: ["ignore", "ignore", "pipe"] });
    let said = "";
    child.stderr.on("data", (chunk: Buffer) => (said += chunk));
    const ended = new Promise<number | null>((done) => child.once("exit", done));
    await until(`${name}-service to listen`, 20_000, () =>
      said.includes(`${name}-service listens on https://`) ? true : undefined,
    );
    child.kill("SIGTERM");
    expect(await ended, said).toBe(0);
  }
});

endToEnd("a service starts and answers where no NATS server is there", async () => {
  await using scene = await Scene.open("nobus");
  const port = await freePort();
  const flags = [
    `data.directory=${join(scene.data, "alone")}`,
    `pki.directory=${join(scene.data, "pki")}`,
    "listen.port=0",
    "nats.servers=127.0.0.1:1",
  ];
  const listen = flags.map((f) => (f.startsWith("listen.port") ? `listen.port=${port}` : f));
  const child = spawn(GABION, ["service", "rule", ...listen.flatMap((f) => ["--set", f])], { stdio: "ignore" });
  const ended = new Promise<number | null>((done) => child.once("exit", done));
  const credentials = readCredentials(join(scene.data, "pki"), "operator/local/admin");
  using rpc = createRpcClient({ url: `https://127.0.0.1:${port}`, credentials, expects: "service/rule" });
  const client = createClient(RuleService, rpc.transport);
  const before = await until("rules", 20_000, () => client.listRules({}).catch(() => undefined));
  await client.createRule({ rule: { name: "made in the dark", process: { effect: Effect.ALERT } } });
  const after = await client.listRules({});
  expect(after.rules.map(({ name }) => name)).toContain("made in the dark");
  expect(after.rulesetRevision).toBe(before.rulesetRevision + 1n);
  child.kill("SIGTERM");
  expect(await ended).toBe(0);
});

endToEnd("a configuration that cannot be used is refused with every fault", async () => {
  const faults = await run(GABION, ["service", "rule", "--set", "listen.port=high", "--set", "lissten.host=x"]).catch(
    (e) => e as { code: number; stderr: string },
  );
  expect(faults).toMatchObject({ code: 2 });
  expect(faults.stderr).toMatch(/2 faults[\s\S]*lissten\.host[\s\S]*listen\.port/);
});
