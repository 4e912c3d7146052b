import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmdirSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { CONTAINERS, missing } from "../../test/requirements.ts";
import { AgentRig } from "../../tools/sandbox/agent-rig.ts";
import { type SandboxContainer, unifiedMount } from "../../tools/sandbox/runc.ts";

const reason = missing(...CONTAINERS, "cgroup1");
const onKernel = test.skipIf(reason !== "");
const TRIES = 200;

const numberOf = (path: string) => statSync(path).ino;

/**
 * A hierarchy of cgroup v1 of our own, beside the unified one. Each hierarchy numbers its groups for itself and upwards,
 * in steps of what a group takes.
 */
class OldHierarchy implements Disposable {
  readonly #mount = mkdtempSync(join(tmpdir(), "gabion-cgroup1-"));
  readonly #first: number;
  readonly #step: number;
  #made = 0;

  constructor() {
    const options = `none,name=gabion-test-${process.pid}`;
    execFileSync("mount", ["-t", "cgroup", "-o", options, "none", this.#mount]);
    const [first, second] = [this.#brief(), this.#brief()];
    this.#first = first;
    this.#step = second - first;
  }

  /** True where a group here can come to have that number. */
  canHave(number: number): boolean {
    return (number - this.#first) % this.#step === 0;
  }

  /** Makes the group that has this number here. */
  groupWith(number: number): string {
    for (;;) {
      const path = this.#make();
      const its = numberOf(path);
      if (its === number) return path;
      rmdirSync(path);
      if (its > number) throw new Error(`group ${number} was passed: a group here is ${its} already`);
    }
  }

  #make(): string {
    this.#made += 1;
    const path = join(this.#mount, `group${this.#made}`);
    mkdirSync(path);
    return path;
  }

  #brief(): number {
    const path = this.#make();
    const number = numberOf(path);
    rmdirSync(path);
    return number;
  }

  [Symbol.dispose](): void {
    execFileSync("umount", [this.#mount]);
    rmdirSync(this.#mount);
  }
}

describe("groups of other hierarchies that happen to have the same numbers", () => {
  let old: OldHierarchy;
  let rig: AgentRig;

  beforeAll(async () => {
    if (reason !== "") return;
    old = new OldHierarchy();
    const scope = join(unifiedMount(), AgentRig.groupOf("hierarchies"));
    for (let i = 0; i < TRIES; i += 1) {
      mkdirSync(scope);
      if (old.canHave(numberOf(scope))) break;
      rmdirSync(scope);
    }
    rig = await AgentRig.open("hierarchies", LearningState.LEARNING);
    await rig.rules({ process: { effect: Effect.ALERT } });
  });
  afterAll(async () => {
    await rig?.[Symbol.asyncDispose]();
    old?.[Symbol.dispose]();
  });

  onKernel("do not end the watch over what is made where they were removed", async () => {
    rmdirSync(old.groupWith(numberOf(join(unifiedMount(), rig.sandbox.scope))));
    rig.sandbox.start("first", { args: ["/bin/sleep", "300"], programs: ["/bin/sleep"] });
    const container = await rig.watched("first");
    expect(container.message.partlySeen).toBe(false);
  });

  onKernel("are not the container when they become empty and go", async () => {
    let web: SandboxContainer | undefined;
    for (let i = 0; i < TRIES && !web; i += 1) {
      const tried = rig.sandbox.start(`web${i}`, {
        args: ["/bin/sleep", "300"],
        programs: ["/bin/sleep", "/bin/true"],
      });
      const { cgroup } = await rig.watched(tried.id);
      if (old.canHave(Number(cgroup.id))) web = tried;
      else await tried[Symbol.asyncDispose]();
    }
    if (!web) throw new Error("no container got a number that a group of the other hierarchy can have");
    const container = await rig.watched(web.id);
    const group = old.groupWith(Number(container.cgroup.id));
    const member = spawn("sleep", ["300"]);
    const ended = once(member, "exit");
    try {
      writeFileSync(join(group, "cgroup.procs"), String(member.pid));
      expect(readFileSync(join(group, "cgroup.procs"), "utf8").trim()).toBe(String(member.pid));
    } finally {
      member.kill("SIGKILL");
      await ended;
    }
    rmdirSync(group);
    const { status } = await web.exec("/bin/true");
    expect(status).toBe(0);
    await rig.learned("/bin/true");
    expect(container.isGone).toBe(false);
    expect(rig.agent.containers.byId(web.id)).toBe(container);
  });
});
