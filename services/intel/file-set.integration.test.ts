import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { createClient, createRouterTransport } from "@connectrpc/connect";
import { afterAll, afterEach, beforeEach, expect, test } from "vitest";
import { compileBadFiles } from "#core/intel/bad-files.ts";
import { FileSetSchema, IndicatorType, Verdict } from "#gen/gabion/intel/v1/intel_pb.ts";
import { IntelService } from "#gen/gabion/intel/v1/intel_service_pb.ts";
import { ManualClock } from "#lib/flow/clock.ts";
import type { Store } from "#lib/store/port.ts";
import { openSqliteStore } from "#lib/store/sqlite.ts";
import { FILE_SETS, FileSets } from "./file-set.ts";
import { INDICATORS, registerIntelService } from "./service.ts";

const directory = mkdtempSync(join(tmpdir(), "gabion-intel-"));
const NOW = 1_700_000_000_000;
let places = 0;
let store: Store;
let published: bigint[];
let fileSets: FileSets;
let clock: ManualClock;

async function open() {
  const indicators = await store.collection(INDICATORS);
  const sets = await store.collection(FILE_SETS);
  fileSets = new FileSets({ indicators, sets, clock, publish: ({ revision }) => published.push(revision) });
  const transport = createRouterTransport((router) => registerIntelService(router, { indicators, fileSets, clock }));
  return createClient(IntelService, transport);
}

beforeEach(async () => {
  store = await openSqliteStore(join(directory, `${places++}.sqlite`));
  published = [];
  clock = new ManualClock(NOW);
});
afterEach(() => store[Symbol.asyncDispose]());
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const hash = (digit: string) => digit.repeat(64);
const file = (digit: string, verdict: Verdict = Verdict.BAD) => ({
  type: IndicatorType.SHA256,
  value: hash(digit),
  verdict,
});

test("the set follows the indicators, grows in revision with each change, and only then", async () => {
  const client = await open();
  const set = async () => fromBinary(FileSetSchema, (await client.getFileSet({})).fileSet);
  const first = await set();
  expect(first).toMatchObject({ revision: BigInt(NOW) + 1n, files: [] });
  await client.putIndicators({ indicators: [file("b"), file("a")] });
  const two = await set();
  expect(two.files.map(({ sha256 }) => Buffer.from(sha256).toString("hex"))).toEqual([hash("a"), hash("b")]);
  expect(two.revision).toBe(first.revision + 1n);
  await client.putIndicators({
    indicators: [{ type: IndicatorType.DOMAIN, value: "evil.example", verdict: Verdict.BAD }],
  });
  expect((await set()).revision).toBe(two.revision);
  await client.putIndicators({ indicators: [file("a", Verdict.EXCEPTION)] });
  await client.deleteIndicator({ type: IndicatorType.SHA256, value: hash("b") });
  expect(await set()).toMatchObject({ revision: first.revision + 3n, files: [] });
  expect(published).toEqual([0n, 1n, 2n, 3n].map((more) => first.revision + more));
});

test("what was saved and not yet published is found at the next start, what has expired is left out", async () => {
  const client = await open();
  const expireTime = timestampFromMs(NOW + 1_000);
  await client.putIndicators({ indicators: [{ ...file("c"), sources: [{ expireTime, description: "a dropper" }] }] });
  const set = fromBinary(FileSetSchema, (await client.getFileSet({})).fileSet);
  expect(compileBadFiles(set, NOW).byHash.get(hash("c"))).toMatchObject({ feed: "own", description: "a dropper" });
  expect(compileBadFiles(set, NOW + 1_000).byHash.size).toBe(0);
  await clock.advance(2_000);
  const again = await open();
  await fileSets.refresh();
  expect(fromBinary(FileSetSchema, (await again.getFileSet({})).fileSet)).toMatchObject({
    revision: set.revision + 1n,
    files: [],
  });
});
