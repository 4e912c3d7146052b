import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { until } from "../tools/demo/until.ts";
import { Scene } from "./fixtures/scene.ts";
import { CONTAINERS, missing } from "./requirements.ts";

const reason = missing(...CONTAINERS, "nats");
const endToEnd = test.skipIf(reason !== "");
const SETTINGS = [
  "model.learning=3s",
  "model.dryRun=6s",
  "model.extendedLearning=4s",
  "model.archive=6s",
  "agent.span=250ms",
];
/** A small server by an init script, that makes a folder for each of its rounds. */
const INIT = `#!/bin/sh
mkdir -p /tmp/www
i=0
while true; do i=$((i+1)); mkdir -p /srv/req-$i; date > /srv/req-$i/index.html; sleep 0.3; done &
exec httpd -f -p 8080 -h /tmp/www
`;
const SERVER = {
  args: ["/init.sh"],
  programs: ["/bin/wget"],
  applets: ["/bin/sh", "/bin/mkdir", "/bin/date", "/bin/httpd", "/bin/sleep"],
  files: { "/init.sh": { content: INIT, mode: 0o755 } },
  annotations: { "org.opencontainers.image.ref.name": "docker.io/library/web:1" },
};

endToEnd(
  "a model goes through its whole life by itself, and everything that happened stands in its history",
  async () => {
    await using scene = await Scene.open("life", SETTINGS);
    const web = scene.sandbox.start("web", SERVER);
    const { modelKey } = await scene.observer.modelOf("web");
    const gabion = async (...args: string[]) => {
      const { status, stdout, stderr } = await scene.gabion(...args);
      expect(stderr.includes("Error") ? stderr : "", args.join(" ")).toBe("");
      return { status, stdout, stderr };
    };
    const shown = async () => (await gabion("models", "get", modelKey)).stdout;

    // Static items are in the model at once, each with its place.
    await until("the static analysis", 10_000, async () => (await shown()).includes("read /init.sh") || undefined);
    // On a busy machine the container shows some of them first.
    expect(await shown()).toMatch(/\/bin\/busybox as httpd +allowed +(static|behavior)/);
    expect(await shown()).toMatch(/listens on tcp\/8080 +allowed +(static|behavior)/);
    expect(await shown()).toMatch(/ +allowed +static/);

    await scene.observer.modelInState(modelKey, LearningState.DRY_RUN);
    expect(await shown()).toContain("/srv/req-? by /bin/busybox");
    await web.exec("/bin/wget", "-q", "-O", "-", "http://127.0.0.1:8080/");
    await scene.observer.modelInState(modelKey, LearningState.EXTENDED_LEARNING);
    await scene.observer.modelInState(modelKey, LearningState.ACTIVE);
    // What the family covers is known from now on, and nobody is told of it.
    const { stdout: audits } = await gabion("audits", "-o", "json");
    expect((JSON.parse(audits) as { message?: string }[]).filter((a) => a.message?.includes("req-"))).toEqual([]);

    const items = JSON.parse((await gabion("-o", "json", "models", "get", modelKey)).stdout) as {
      sections: { items: { itemId: string; folded?: string[]; fact: { file?: object } }[] }[];
    };
    const family = items.sections.flatMap((s) => s.items).find(({ folded }) => (folded?.length ?? 0) > 0)?.itemId ?? "";
    expect((await gabion("models", "pin", modelKey, family)).stdout).toContain("is confirmed");
    expect(await shown()).toContain("allowed, confirmed");

    // What is exported comes in again, and is refused whole where it is not what it should be.
    const file = join(scene.data, "model.json");
    writeFileSync(file, (await gabion("models", "export", modelKey)).stdout);
    expect((await gabion("models", "import", modelKey, "-f", file)).stdout).toContain("0 items are new");
    writeFileSync(file, readFileSync(file, "utf8").replace('"version": 1', '"version": 9'));
    const refused = await scene.gabion("models", "import", modelKey, "-f", file);
    expect(refused.status).toBe(2);
    expect(refused.stderr).toContain("this Gabion reads version 1");
    expect((await gabion("models", "export", modelKey, "--as", "network-policy")).stdout).toContain("port: 8080");
    expect((await gabion("models", "export", modelKey, "--as", "apparmor")).stdout).toContain("/bin/busybox rix,");

    // A rule made of the model can be given to the rules as it is.
    const rule = join(scene.data, "rule.yaml");
    writeFileSync(rule, (await gabion("models", "to-rule", modelKey, "--name", "of the model")).stdout);
    expect((await gabion("rules", "create", "-f", rule, "--validate-only")).stdout).toContain("is valid");

    expect((await scene.gabion("models", "archive", modelKey)).stderr).toContain("1 containers run it");
    expect((await gabion("models", "change", "relearn", "--image", "web", "--validate-only")).stdout).toContain(
      modelKey,
    );
    await web[Symbol.asyncDispose]();
    await until(
      "the archive",
      10_000,
      async () => (await gabion("models")).stdout.includes("archived (active)") || undefined,
    );
    const again = scene.sandbox.start("again", SERVER);
    await until("the return", 10_000, async () => !(await gabion("models")).stdout.includes("archived") || undefined);
    const states = JSON.parse((await gabion("-o", "json", "models", "list")).stdout) as { state: string }[];
    expect(states[0]?.state).toBe("LEARNING_STATE_ACTIVE");

    const history = (await gabion("models", "history", modelKey)).stdout;
    const order = [
      "learning began",
      // By its analysis or, on a busy machine, by the container itself.
      "/bin/busybox as /init.sh` added: ",
      "items became `/srv/req-? by /bin/busybox`",
      "learning → dry-run",
      "`/bin/wget` added",
      "dry-run → extended-learning: a deviation was seen in the dry run",
      "extended-learning → active",
      "was confirmed",
      "archived: no container runs it",
      "returned from the archive",
    ];
    const places = order.map((text) => history.indexOf(text));
    expect(places.filter((at) => at < 0)).toEqual([]);
    expect(places).toEqual(places.toSorted((a, b) => a - b));
    await again[Symbol.asyncDispose]();
    await until("its removal", 20_000, async () => (await gabion("models")).stdout.includes("nothing") || undefined);
  },
);

endToEnd("the same tag with another digest is another model, and pods of one deployment share one", async () => {
  await using scene = await Scene.open("keys", SETTINGS);
  const pod = (namespace: string, name: string) => ({
    ...SERVER.annotations,
    "org.opencontainers.image.digest": `sha256:${"c".repeat(64)}`,
    "io.kubernetes.cri.sandbox-namespace": namespace,
    "io.kubernetes.cri.sandbox-name": name,
  });
  scene.sandbox.start("plain", SERVER);
  scene.sandbox.start("changed", { ...SERVER, files: { ...SERVER.files, "/etc/x": { content: "x", mode: 0o755 } } });
  scene.sandbox.start("pod-1", { ...SERVER, annotations: pod("shop", "web-6d4cf56db6-x7k2p") });
  scene.sandbox.start("pod-2", { ...SERVER, annotations: pod("shop", "web-6d4cf56db6-b2c4d") });
  scene.sandbox.start("other", { ...SERVER, annotations: pod("shop", "api-6d4cf56db6-b2c4d") });
  scene.sandbox.start("elsewhere", { ...SERVER, annotations: pod("test", "web-6d4cf56db6-x7k2p") });
  const names = ["plain", "changed", "pod-1", "pod-2", "other", "elsewhere"];
  const models = [];
  for (const name of names) models.push(await scene.observer.modelOf(name));
  const [plain, changed, one, two, other, elsewhere] = models.map(({ modelKey }) => modelKey);
  expect(one).toBe(two);
  expect(new Set([plain, changed, one, other, elsewhere]).size).toBe(5);
  expect(models[2]?.scope).toMatchObject({ namespace: "shop", workload: "Deployment/web" });
  expect((await scene.gabion("models", "list", "--namespace", "test")).stdout).toContain(elsewhere);
  expect((await scene.gabion("models", "diff", plain ?? "", changed ?? "")).stdout).toContain("items are in both");
});
