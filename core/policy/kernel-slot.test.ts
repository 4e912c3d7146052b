import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { expect, test } from "vitest";
import { ContentState } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState, ProcessFactSchema } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect, Outcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import { ProcessSectionSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { contentIdentity } from "../model/fact.ts";
import type { KernelAction } from "./kernel-entry.ts";
import { type ProcessSlot, toProcessSlot } from "./kernel-process.ts";
import { baseName, NOTHING_SPECIAL, type ProcessEvent } from "./process-event.ts";
import { compileProcessPolicy, evaluateProcess } from "./process-policy.ts";

/** An event with the file name as the kernel sees it: a script may be called by a relative one. */
type KernelEvent = ProcessEvent & { readonly filename: string };

type Find = (kind: string, first: string, second?: string, content?: string) => KernelAction | undefined;

function finder(slot: ProcessSlot): Find {
  return (kind, first, second = "", content = "") =>
    slot.entries.find((e) => {
      if (e.kind !== kind) return false;
      if (e.kind === "item") return e.path === first && e.name === second;
      if (e.kind === "item_content") return e.path === first && e.name === second && e.content === content;
      return "text" in e && e.text === first;
    })?.action;
}

/** Everything that the lists are looked up with. */
function lookUp(find: Find, { path, name, filename, isScript }: KernelEvent): (KernelAction | undefined)[] {
  const directories = (text: string) => [...text.matchAll(/\//g)].map(({ index }) => text.slice(0, index + 1));
  const isAbsolute = filename.startsWith("/");
  return [
    find("path", path),
    find("name", baseName(path)),
    ...directories(path).map((d) => find("directory", d)),
    find("name", baseName(filename)),
    isAbsolute ? find("path", filename) : undefined,
    ...(isAbsolute && isScript ? directories(filename).map((d) => find("directory", d)) : []),
    isScript ? undefined : find("name", name),
  ];
}

function lookUpItem(find: Find, event: ProcessEvent): KernelAction | undefined {
  const isKnown = event.contentState === ContentState.UNCHANGED || event.sha256 !== "";
  const byContent =
    isKnown && !event.isScript ? find("item_content", event.path, event.name, contentIdentity(event)) : undefined;
  return byContent ?? find("item", event.path, event.name);
}

/** Absolute, and without components that may lead elsewhere. */
function isPlain(filename: string): boolean {
  return filename.startsWith("/") && !/\/[/.]/.test(filename);
}

/** What agent/sensor/exec_decide.bpf.h does, in the same order. The kernel tests run the real one. */
function decideAsKernel(slot: ProcessSlot, event: KernelEvent): KernelAction {
  const find = finder(slot);
  const tried = lookUp(find, event);
  for (const denial of ["block", "prevent", "audit"] as const) if (tried.includes(denial)) return denial;
  if (tried.includes("ask") || (event.isScript && !isPlain(event.filename))) return "ask";
  const byItem = lookUpItem(find, event);
  if (byItem) return byItem;
  const isImage = event.contentState === ContentState.UNCHANGED;
  if (tried.includes("allow")) return isImage && !event.isScript ? "allow" : "ask";
  return isImage ? slot.defaults.image : slot.defaults.foreign;
}

const paths = ["/bin/sh", "/bin/nc", "/opt/app/run", "/opt/x", "/tmp/drop", "/bin/busybox"];
const listed = [...paths, "sh", "nc", "run", "ls", "/opt/*", "/tmp/*", "*nc", "*", "/opt/*/run"];
const sha = "d".repeat(64);
const path = fc.constantFrom(...paths);
const entry = fc.record({
  process: fc.constantFrom(...listed),
  sha256: fc.constantFrom("", "", "", sha),
  parents: fc.constantFrom<string[]>([], [], [], ["/bin/sh"]),
});
const content = fc.constantFrom(
  { contentState: ContentState.UNCHANGED, sha256: "" },
  { contentState: ContentState.FOREIGN, sha256: sha },
  { contentState: ContentState.CHANGED, sha256: "e".repeat(64) },
);
const item = fc.tuple(
  path,
  fc.constantFrom("sh", "nc", "ls", "run"),
  content,
  fc.constantFrom<string[]>([], ["/bin/sh"]),
);
const scripts = {
  "/opt/app/run": "/opt/app/run",
  "/tmp/drop": "/tmp/drop",
  drop: "/tmp/drop",
  "/tmp/./drop": "/tmp/drop",
  "/tmp/../tmp/drop": "/tmp/../tmp/drop",
};
const event: fc.Arbitrary<KernelEvent> = fc
  .record({
    path,
    name: fc.constantFrom("sh", "nc", "ls", "run", "other"),
    invoked: fc.constantFrom("", "/usr/bin/link", "nc"),
    content,
    parents: fc.constantFrom<string[]>([], ["/bin/sh"], ["/sbin/init"]),
    script: fc.constantFrom("", "", ...(Object.keys(scripts) as (keyof typeof scripts)[])),
  })
  .map(({ path: real, name, invoked, content: c, parents, script }) => {
    const base = { path: real, ...c, parents, ...NOTHING_SPECIAL };
    if (script === "")
      return { ...base, name, invokedPath: invoked || real, filename: invoked || real, isScript: false };
    return { ...base, name: scripts[script], invokedPath: scripts[script], filename: script, isScript: true };
  });

const STRONG: Partial<Record<Effect, KernelAction>> = { [Effect.PREVENT]: "prevent", [Effect.BLOCK]: "block" };

test("the kernel never says anything that the policy would not say, in every state and effect", () => {
  fc.assert(
    fc.property(
      fc.array(entry, { maxLength: 4 }),
      fc.array(entry, { maxLength: 4 }),
      fc.array(item, { maxLength: 4 }),
      fc.constantFrom(Effect.ALERT, Effect.PREVENT, Effect.BLOCK),
      fc.constantFrom(LearningState.LEARNING, LearningState.DRY_RUN, LearningState.ACTIVE),
      fc.constantFrom<Record<string, { effect?: Effect; exceptions?: string[] }>>(
        {},
        { drift: {} },
        { drift: { effect: Effect.ALERT } },
        { drift: { exceptions: ["/tmp/*"] } },
        { parent_check: {} },
      ),
      event,
      (allowed, denied, items, effect, state, detectors, run) => {
        const section = create(ProcessSectionSchema, { effect, allowed, denied, detectors });
        const facts = items.map(([p, name, c, parentPaths]) =>
          create(ProcessFactSchema, { path: p, name, parentPaths, ...c }),
        );
        const policy = compileProcessPolicy({ section, hasRule: true, items: facts, state });
        const action = decideAsKernel(toProcessSlot(policy), run);
        const decision = evaluateProcess(policy, run);
        if (action === "allow") {
          expect(decision.outcome).toBe(Outcome.ALLOW);
          expect(decision.isLearned).toBe(false);
        }
        if (action === "audit")
          expect(decision).toMatchObject({ outcome: Outcome.DENIAL, effectApplied: Effect.ALERT });
        if (action === "prevent" || action === "block") expect(STRONG[decision.effectApplied as Effect]).toBe(action);
      },
    ),
    { numRuns: 50_000 },
  );
});

test("known-good execs of an active model are allowed in the kernel, unknown ones killed there", () => {
  const section = create(ProcessSectionSchema, { effect: Effect.PREVENT, denied: [{ process: "nc" }] });
  const items = [create(ProcessFactSchema, { path: "/bin/sh", name: "sh", contentState: ContentState.UNCHANGED })];
  const slot = toProcessSlot(compileProcessPolicy({ section, hasRule: true, items, state: LearningState.ACTIVE }));
  const run = (p: string, name: string): KernelEvent => ({
    filename: p,
    path: p,
    name,
    invokedPath: p,
    contentState: ContentState.UNCHANGED,
    sha256: "",
    parents: [],
    isScript: false,
    ...NOTHING_SPECIAL,
  });
  expect(decideAsKernel(slot, run("/bin/sh", "sh"))).toBe("allow");
  expect(decideAsKernel(slot, run("/bin/id", "id"))).toBe("prevent");
  expect(decideAsKernel(slot, run("/usr/bin/nc", "x"))).toBe("prevent");
});

test("a model that learns is asked about everything but denials", () => {
  const section = create(ProcessSectionSchema, { effect: Effect.BLOCK, denied: [{ process: "/bin/nc" }] });
  const slot = toProcessSlot(
    compileProcessPolicy({ section, hasRule: true, items: [], state: LearningState.LEARNING }),
  );
  expect(slot.defaults).toMatchObject({ image: "ask", foreign: "ask" });
  expect(slot.entries).toEqual([{ kind: "path", text: "/bin/nc", action: "block" }]);
});
