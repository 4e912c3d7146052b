import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { createClient, createRouterTransport } from "@connectrpc/connect";
import { afterAll, afterEach, beforeEach, expect, test } from "vitest";
import { auditDigest } from "#core/policy/audit-digest.ts";
import { type Audit, AuditKind, AuditSchema } from "#gen/gabion/audit/v1/audit_pb.ts";
import { AuditService } from "#gen/gabion/audit/v1/audit_service_pb.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { ManualClock } from "#lib/flow/clock.ts";
import { FanOut } from "#lib/flow/fan-out.ts";
import { createLogInterceptor } from "#lib/rpc/server-interceptors.ts";
import { AgentStreams } from "#lib/service/agent-streams.ts";
import type { Collection, Store } from "#lib/store/port.ts";
import { openSqliteStore } from "#lib/store/sqlite.ts";
import { createLogger } from "#lib/telemetry/log.ts";
import { AUDITS, Audits } from "./audits.ts";
import { sweepAudits } from "./retention.ts";
import { AGENT_RUNS, AgentRuns } from "./runs.ts";
import { registerAuditService } from "./service.ts";
import type { Verdicts } from "./verdicts.ts";

const directory = mkdtempSync(join(tmpdir(), "gabion-audit-"));
let places = 0;
let store: Store;
let collection: Collection<Audit>;
let clock: ManualClock;
let audits: Audits;
let runs: AgentRuns;
const live = new FanOut<Audit>(100);

beforeEach(async () => {
  store = await openSqliteStore(join(directory, `${places++}.sqlite`));
  collection = await store.collection(AUDITS);
  clock = new ManualClock();
  audits = new Audits(collection, live, clock);
  runs = new AgentRuns(await store.collection(AGENT_RUNS), audits);
});
afterEach(() => store[Symbol.asyncDispose]());
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function chain(count: number, more: Partial<{ nodeId: string; runId: string; rule: string }> = {}): Audit[] {
  const made: Audit[] = [];
  for (let i = 1; i <= count; i += 1) {
    const before = made.at(-1);
    made.push(
      create(AuditSchema, {
        nodeId: more.nodeId ?? "n1",
        agentRunId: more.runId ?? "run",
        chainSequence: BigInt(i),
        previousDigest: before ? auditDigest(before) : new Uint8Array(),
        kind: i % 2 === 0 ? AuditKind.DENIAL : AuditKind.DEVIATION,
        section: Section.PROCESS,
        ruleName: more.rule ?? "",
        message: `audit ${i}`,
        lastTime: timestampFromMs(clock.now() + i),
      }),
    );
  }
  return made;
}

function client() {
  // Verdicts need a bus and are tested with one.
  const verdicts = undefined as unknown as Verdicts;
  const onDurable = async () => {};
  const deps = { collection, live, audits, runs, verdicts, clock, streams: new AgentStreams(), onDurable };
  const interceptors = [createLogInterceptor(createLogger("test", "fatal"))];
  const transport = createRouterTransport((router) => registerAuditService(router, deps), { router: { interceptors } });
  return createClient(AuditService, transport);
}

test("audits are listed newest first, in pages without gap or repeat, each once however often it came", async () => {
  const all = chain(25);
  await audits.add(all.slice(0, 15));
  await audits.add(all);
  const seen: string[] = [];
  for (let pageToken = ""; ; ) {
    const page = await client().listAudits({ pageSize: 10, pageToken });
    seen.push(...page.audits.map(({ message }) => message));
    if (page.nextPageToken === "") break;
    pageToken = page.nextPageToken;
  }
  expect(seen).toEqual(all.map(({ message }) => message).toReversed());
});

test("filters narrow the list, and a foreign page token is refused", async () => {
  await audits.add([...chain(10, { rule: "a" }), ...chain(4, { nodeId: "n2", rule: "b" })]);
  const count = async (filter: object) => (await client().listAudits({ filter, pageSize: 100 })).audits.length;
  expect(await count({ nodeId: "n2" })).toBe(4);
  expect(await count({ ruleName: "a", kind: AuditKind.DENIAL })).toBe(5);
  expect(await count({ startTime: timestampFromMs(clock.now() + 9) })).toBe(2);
  expect(await count({ section: Section.NETWORK })).toBe(0);
  await expect(client().listAudits({ pageToken: "nonsense" })).rejects.toThrow(/begin without one/);
});

test("a watcher gets what passes its filter, from the moment its stream is open", async () => {
  const abort = new AbortController();
  const stream = client()
    .watchAudits({ filter: { nodeId: "n2" } }, { signal: abort.signal })
    [Symbol.asyncIterator]();
  expect((await stream.next()).value?.audits).toEqual([]);
  await audits.add([...chain(3), ...chain(2, { nodeId: "n2" })]);
  expect((await stream.next()).value?.audits.map(({ nodeId }: Audit) => nodeId)).toEqual(["n2", "n2"]);
  abort.abort();
  await stream.next().catch(() => {});
});

test("a gap, a broken link and a run that ended without a word become audits", async () => {
  const all = chain(6);
  let run = await runs.begin("n1", "run");
  run = await runs.follow(run, 1, all.slice(0, 2));
  run = await runs.follow(run, 2, all.slice(4, 5));
  const forged = create(AuditSchema, { ...all[5], previousDigest: new Uint8Array(32) } as Audit);
  await runs.follow(run, 3, [forged]);
  await runs.begin("n1", "next run");
  const names = (await client().listAudits({})).audits.map(({ system, message }) => `${system?.name}: ${message}`);
  expect(names).toEqual([
    expect.stringMatching(/^agent_run_gap: .*ended without saying so.*after audit 6/),
    expect.stringMatching(/^audit_chain_broken: audit 6/),
    expect.stringMatching(/^audit_gap: audits 3 to 4/),
  ]);
});

test("audits that are too old or too many go, oldest first", async () => {
  await audits.add(chain(10, { runId: "old" }));
  await clock.advance(3_600_000);
  await audits.add(chain(30, { runId: "new" }));
  expect(await sweepAudits(collection, { maxCount: 1_000, maxAgeMs: 60_000 }, clock)).toBe(10);
  expect(await sweepAudits(collection, { maxCount: 12, maxAgeMs: 60_000 }, clock)).toBe(18);
  const left = (await client().listAudits({})).audits.map(({ message }) => message);
  expect(left).toEqual(Array.from({ length: 12 }, (_, i) => `audit ${30 - i}`));
});
