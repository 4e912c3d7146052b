import { existsSync } from "node:fs";
import { join } from "node:path";
import { factText } from "#core/model/fact-text.ts";
import type { Audit } from "#gen/gabion/audit/v1/audit_pb.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { ItemStatus, LearningState, type Model } from "#gen/gabion/model/v1/model_pb.ts";
import { Delivery, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { AUDIT_COLUMNS, effectText } from "../cli/audits.ts";

import { toTable } from "../cli/output.ts";
import type { Sandbox, SandboxContainer } from "../sandbox/runc.ts";
import type { Observer } from "./observer.ts";
import { until } from "./until.ts";

export interface StoryParts {
  readonly sandbox: Sandbox;
  readonly observer: Observer;
  readonly tell: (line: string) => void;
}

/** Something in the story did not happen as it should. */
export class StoryError extends Error {
  override readonly name = "StoryError";
}

function expect(condition: boolean, what: string): void {
  if (!condition) throw new StoryError(`not observed: ${what}`);
}

const WEB_SCRIPT = "while true; do /bin/date > /tmp/now; /bin/sleep 0.2; done";
const WEB_PROGRAMS = [
  "/bin/sh",
  "/bin/date",
  "/bin/sleep",
  "/bin/id",
  "/bin/nc",
  "/bin/wget",
  "/bin/touch",
  "/bin/nslookup",
];

function learned(model: Model): string[] {
  const items = model.sections.flatMap((section) => section.items);
  return items
    .filter((item) => item.status === ItemStatus.ALLOWED && item.fact?.kind.case === "process")
    .map((item) => factText(item.fact))
    .sort();
}

async function learn({ sandbox, observer, tell }: StoryParts): Promise<{ web: SandboxContainer; modelKey: string }> {
  tell("1. A container starts. Nobody has configured anything.");
  const web = sandbox.start("web", { args: ["/bin/sh", "-c", WEB_SCRIPT], programs: WEB_PROGRAMS });
  const { modelKey } = await observer.modelOf("web");
  await observer.modelInState(modelKey, LearningState.DRY_RUN);
  tell("   learning is complete; the model is on trial (dry run)");
  const model = await observer.modelInState(modelKey, LearningState.ACTIVE);
  tell("   the dry run ended without a deviation; the model is active. It learned:");
  for (const line of learned(model)) tell(`     ${line}`);
  expect(learned(model).join() === "/bin/date,/bin/sh,/bin/sleep", "exactly what the container ran was learned");
  return { web, modelKey };
}

/** An audit as one line. Which of several ways stopped a container first is a race, and no part of the story. */
function describe(audit: Audit): string {
  const note = audit.deliveryNote.replace(/(container stopped) .*/, "$1");
  return `${audit.message}; ${effectText(audit)}${note ? `: ${note}` : ""}`;
}

async function alert({ observer, tell }: StoryParts, web: SandboxContainer): Promise<void> {
  tell("2. Somebody runs `id` in it, which it never did before. The default rule alerts:");
  const { output } = await web.exec("/bin/id");
  expect(output.includes("uid=0"), "the new process ran, because alert prevents nothing");
  const audit = await observer.auditWhere("`id`", (a) => a.event?.actor?.path === "/bin/id");
  expect(audit.delivery === Delivery.AUDITED, "an alert and nothing more");
  tell(`   audit: ${describe(audit)}`);
}

async function prevent({ sandbox, observer, tell }: StoryParts, web: SandboxContainer): Promise<void> {
  tell(
    "3. A rule with effect prevent is added for this container, and `nc` is denied. Then `touch` and `nc` are tried:",
  );
  await observer.enforceRule({
    name: "web - prevent",
    scope: { containers: ["web"] },
    process: { effect: Effect.PREVENT, denied: [{ process: "nc" }] },
  });
  const touched = await web.exec("/bin/touch", "/created-by-touch");
  const denied = await web.exec("/bin/nc", "-h");
  expect(touched.status !== 0 && denied.status !== 0, "both failed");
  expect(!existsSync(join(sandbox.directory, "bundles/web/rootfs/created-by-touch")), "`touch` did nothing");
  expect(!denied.output.includes("BusyBox"), "`nc` said nothing");
  for (const path of ["/bin/touch", "/bin/nc"]) {
    const audit = await observer.auditWhere(path, (a) => a.event?.actor?.path === path);
    expect(audit.delivery === Delivery.DENIED && audit.ruleName === "web - prevent", `${path} was refused by the rule`);
    tell(`   audit: ${describe(audit)}`);
  }
  expect(await web.isRunning(), "the container goes on");
  tell("   `touch` created no file, `nc` said nothing, and the container goes on");
}

/** Addresses for documentation stand for the Internet; they exist in the container's own network only. */
const INTERNET = "203.0.113.5";
const RESOLVER = "10.0.0.53";

async function network({ observer, tell }: StoryParts, web: SandboxContainer): Promise<void> {
  tell(
    "4. A rule for its network: prevent what the model does not hold, `*.evil.example` is denied, scans are watched for:",
  );
  await web.addAddresses(INTERNET, RESOLVER);
  await observer.enforceRule({
    name: "web - network",
    scope: { containers: ["web"] },
    network: { effect: Effect.PREVENT, detectors: { port_scan: { effect: Effect.ALERT } } },
    dns: { effect: Effect.PREVENT, denied: ["*.evil.example"] },
  });
  const from = observer.audits.length;
  const connected = await web.exec("/bin/nc", "-w", "1", INTERNET, "4444");
  expect(connected.output.includes("Operation not permitted"), "the connection failed with EPERM");
  const refused = await observer.auditWhere("port 4444", (a) => a.message.includes("tcp/4444"), from);
  expect(refused.delivery === Delivery.DENIED, "the connection was refused in the kernel");
  tell(`   audit: ${describe(refused)}`);
  await web.exec("/bin/nslookup", "-type=a", "c2.evil.example", RESOLVER);
  const dropped = await observer.auditWhere("the look-up", (a) => a.message.includes("c2.evil.example"), from);
  expect(dropped.delivery === Delivery.DENIED, "the query never left");
  tell(`   audit: ${describe(dropped)}`);
  await web.exec("/bin/sh", "-c", `for port in $(seq 1 10); do nc -w 1 ${RESOLVER} $port; done`);
  const scan = await observer.auditWhere("the scan", (a) => a.decision?.detector === "port_scan", from);
  tell(`   audit: ${describe(scan)}`);
}

async function block({ observer, tell }: StoryParts, web: SandboxContainer): Promise<void> {
  tell("5. A rule with effect block takes its place. `wget` is tried:");
  await observer.enforceRule({
    name: "web - block",
    scope: { containers: ["web"] },
    process: { effect: Effect.BLOCK },
  });
  await web.exec("/bin/wget", "http://127.0.0.1/");
  const audit = await observer.auditWhere("`wget`", (a) => a.event?.actor?.path === "/bin/wget");
  expect(audit.delivery === Delivery.DENIED && audit.ruleName === "web - block", "`wget` was refused by the rule");
  tell(`   audit: ${describe(audit)}`);
  await until("the container to stop", 10_000, async () => ((await web.isRunning()) ? undefined : true));
  const { status } = await web.ended;
  expect(status === 137, "the container's first process was killed");
  tell("   the container is stopped (its first process died with SIGKILL)");
}

async function applets({ sandbox, observer, tell }: StoryParts): Promise<void> {
  tell("6. In another container all programs are links to one busybox. Applets are told apart by name:");
  const script = "while true; do /bin/date > /tmp/now; /bin/sleep 0.2; done";
  const applet = sandbox.start("applets", {
    args: ["/bin/sh", "-c", script],
    programs: [],
    applets: ["/bin/sh", "/bin/date", "/bin/sleep", "/bin/id"],
  });
  const { modelKey } = await observer.modelOf("applets");
  const model = await observer.modelInState(modelKey, LearningState.ACTIVE);
  tell(`   learned: ${learned(model).join(", ")}`);
  const from = observer.audits.length;
  await applet.exec("/bin/id");
  const audit = await observer.auditWhere("the applet `id`", (a) => a.event?.actor?.name === "id", from);
  expect(audit.event?.actor?.path === "/bin/busybox", "the applet's real path is busybox");
  tell(`   audit: ${describe(audit)}`);
  expect(!observer.audits.slice(from).some((a) => a.event?.actor?.name === "date"), "known applets raise nothing");
}

/** The story of the seeds with real containers. Fails unless every part of it was observed. */
export async function tellStory(parts: StoryParts): Promise<void> {
  const { web } = await learn(parts);
  await alert(parts, web);
  await prevent(parts, web);
  await network(parts, web);
  await block(parts, web);
  await applets(parts);
  parts.tell("7. What was recorded of processes and network (files and system calls apart):");
  const told: readonly Section[] = [Section.PROCESS, Section.NETWORK, Section.DNS];
  const rows = parts.observer.audits.filter(({ container, section }) => container && told.includes(section));
  const columns = AUDIT_COLUMNS.filter(({ title }) => title !== "TIME");
  for (const line of toTable(columns, rows).split("\n")) parts.tell(`   ${line}`);
}
