import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Delivery, Reason } from "#gen/gabion/policy/v1/policy_pb.ts";
import { until } from "../tools/demo/until.ts";
import { Scene } from "./fixtures/scene.ts";
import { CONTAINERS, missing } from "./requirements.ts";

const reason = missing(...CONTAINERS, "nats");
const endToEnd = test.skipIf(reason !== "");
const LOOP = ["/bin/sh", "-c", "while true; do /bin/date > /tmp/now; /bin/sleep 0.2; done"];
const PROGRAMS = ["/bin/sh", "/bin/date", "/bin/sleep", "/bin/id", "/bin/nc"];

const MINE = `
  - name: no tools
    scope: { containers: [web] }
    process:
      effect: EFFECT_ALERT
      allowed: [{ process: /bin/date }]
    customRules:
      - name: no netcat
        expression: event.exec.runs("/bin/nc")
        effect: EFFECT_PREVENT
        isIncident: true
`;

endToEnd("rules are planned, applied, followed to the nodes, explained, counted, tried and restored", async () => {
  await using scene = await Scene.open("rules");
  const web = scene.sandbox.start("web", { args: LOOP, programs: PROGRAMS });
  const { modelKey } = await scene.observer.modelOf("web");
  await scene.observer.modelInState(modelKey, LearningState.ACTIVE);
  await web.exec("/bin/id");
  const odd = await scene.observer.auditWhere("id", (a) => a.event?.actor?.path === "/bin/id");

  const file = join(scene.data, "rules.yaml");
  const before = (await scene.gabion("rules", "export")).stdout;
  writeFileSync(file, before.replace("rules:\n", `rules:${MINE}`));
  const plan = await scene.gabion("rules", "apply", "-f", file, "--plan");
  expect(plan.stdout).toMatch(/^create `no tools` at 0\n {4}\+ name: no tools\n[\s\S]*planned, not saved\n$/);
  expect((await scene.gabion("rules", "export")).stdout).toBe(before);
  expect((await scene.gabion("rules", "apply", "-f", file)).stdout).toMatch(/saved as revision \d+\n$/);
  expect((await scene.gabion("rules", "apply", "-f", file)).stdout).toContain("nothing to do");
  const status = await until("every node to enforce it", 20_000, async () => {
    const { stdout } = await scene.gabion("rules", "status");
    return stdout.includes("every connected node enforces it") ? stdout : undefined;
  });
  expect(status).toMatch(/\d+ +1 +0 +local/);

  await web.exec("/bin/nc");
  const audit = await scene.observer.auditWhere("nc", (a) => a.event?.actor?.path === "/bin/nc");
  expect(audit.decision).toMatchObject({
    isIncident: true,
    explanation: { reason: Reason.CUSTOM_RULE, matched: "no netcat" },
  });
  expect([Delivery.DENIED, Delivery.KILLED]).toContain(audit.delivery);

  expect((await scene.gabion("rules", "resolve", "web")).stdout).toMatch(
    /^container `web` gets rule `no tools`\n {2}process: alert, \d+ allowed/,
  );
  expect((await scene.gabion("rules", "check")).stdout).toMatch(
    /no tools +process\.allowed\[0\] +`\/bin\/date` can be left out: all 1 models/,
  );
  expect((await scene.gabion("rules", "coverage", "no tools")).stdout).toMatch(
    /gets 1 of 1[\s\S]*web +local .* this rule/,
  );
  expect((await scene.gabion("rules", "arming", "no tools")).stdout).toMatch(
    /armed on 1 of 1 connected nodes\n[\s\S]*process +alert +audited/,
  );
  const why = (await scene.gabion("explain", audit.auditId)).stdout;
  expect(why).toMatch(/decision +denial: custom rule `no netcat` is true of the start of `\/bin\/nc`/);
  const might = (await scene.gabion("explain", "--container", "web", "--exec", "/usr/bin/date")).stdout;
  expect(might).toMatch(
    /decision +deviation[\s\S]*tried +custom rule `no netcat`: not true[\s\S]*nearest +\/bin\/date as date \(another directory\)/,
  );
  await until("the hit to be counted", 40_000, async () => {
    const { stdout } = await scene.gabion("rules", "hits", "no tools");
    return /custom_rules: no netcat +[1-9]/.test(stdout) ? true : undefined;
  });

  const draft = join(scene.data, "draft.yaml");
  writeFileSync(
    draft,
    "name: no tools\nscope: { containers: [web] }\nprocess: { effect: EFFECT_BLOCK, denied: [{ process: date }] }\n",
  );
  const simulated = await until("the journal to have it", 30_000, async () => {
    const { stdout } = await scene.gabion("rules", "simulate", "-f", draft, "--since", "1d");
    return /start of `\/bin\/id` +1 .*alert +block/.test(stdout) ? stdout : undefined;
  });
  expect(simulated).toMatch(/start of `\/bin\/date` +(known|\d+) +1 +nothing +block/);
  expect(simulated).toMatch(/\d{4}-\d\d-\d\d +\d+ → \d+ +1 → \d+ +0 → 1/);

  const revision = String(odd.rulesetRevision);
  expect((await scene.gabion("rules", "restore", revision)).stdout).toMatch(
    /^delete `no tools` from 0\n[\s\S]*saved as revision/,
  );
  expect((await scene.gabion("rules", "export")).stdout).toBe(before);
  expect((await scene.gabion("rules", "history")).stdout).toMatch(/restore[\s\S]*apply/);
});

endToEnd("a roll-out halts when its rule stops more containers than it may, and then alerts everywhere", async () => {
  await using scene = await Scene.open("rollout");
  const web = scene.sandbox.start("web", { args: LOOP, programs: PROGRAMS });
  const { modelKey } = await scene.observer.modelOf("web");
  await scene.observer.modelInState(modelKey, LearningState.ACTIVE);
  const file = join(scene.data, "rule.yaml");
  writeFileSync(
    file,
    "name: strict\nscope: { containers: [web] }\nprocess: { effect: EFFECT_BLOCK }\n" +
      "rollOut: { percents: [100], dwell: 600s, maxStops: 0, maxRestarts: 10 }\n",
  );
  expect((await scene.gabion("rules", "create", "-f", file)).stdout).toBe("rule `strict` created\n");
  await until("every node to enforce it", 20_000, async () =>
    (await scene.gabion("rules", "status")).stdout.includes("every connected node enforces it") ? true : undefined,
  );
  await web.exec("/bin/id");
  await scene.observer.auditWhere("id", (a) => a.event?.actor?.path === "/bin/id");
  const halted = await until("the halt", 40_000, async () => {
    const { stdout } = await scene.gabion("rules", "arming", "strict");
    return stdout.includes("halted") ? stdout : undefined;
  });
  expect(halted).toContain(
    "armed on 0 of 1 connected nodes; halted: 1 containers were stopped in stage 1, and 0 may be",
  );
  expect((await scene.gabion("rules", "history")).stdout).toMatch(/service\/rule +halt +strict/);
  expect((await scene.gabion("rules", "restart", "strict")).stdout).toContain("begins anew");
});

endToEnd("files of rules that cannot be used are refused whole", async () => {
  await using scene = await Scene.open("rule-files");
  const file = join(scene.data, "rules.yaml");
  const before = (await scene.gabion("rules", "export")).stdout;
  const refused = async (text: string) => {
    writeFileSync(file, text);
    const { status, stderr } = await scene.gabion("rules", "apply", "-f", file);
    expect(status).toBe(2);
    return stderr;
  };
  expect(await refused("rules: []")).toContain("`format` must be `gabion.rules`");
  expect(await refused("format: gabion.rules\nversion: 9\nrules: []")).toContain("version 9 is not known here");
  const two = "format: gabion.rules\nversion: 1\nrules: [{ name: a, proces: {} }, { name: b, scope: { image: x } }]";
  expect(await refused(two)).toMatch(/rules\[0\].*"proces"[\s\S]*rules\[1\].*"image"/);
  const custom = `format: gabion.rules
version: 1
rules:
  - name: a
    process: { effect: EFFECT_ALERT, denied: [{ process: ../x }] }
    customRules: [{ name: c, expression: "event.exec.pth == 1", effect: EFFECT_ALERT }]
`;
  const faults = await refused(custom);
  expect(faults).toContain("rules[0].process.denied[0].process:");
  expect(faults).toContain("rules[0].custom_rules[0].expression: line 1, column 11: `pth` is no field of");
  expect((await scene.gabion("rules", "export")).stdout).toBe(before);
  expect(readFileSync(file, "utf8")).toBe(custom);
});
