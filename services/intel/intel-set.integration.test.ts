import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { createClient, createRouterTransport } from "@connectrpc/connect";
import { afterAll, afterEach, beforeEach, expect, test } from "vitest";
import { compileIntel, findBadAddress, findBadDomain } from "#core/intel/intel-set.ts";
import { parsePrefix } from "#core/matching/address.ts";
import { IndicatorType, IntelSetSchema, Verdict } from "#gen/gabion/intel/v1/intel_pb.ts";
import { IntelService } from "#gen/gabion/intel/v1/intel_service_pb.ts";
import { ManualClock } from "#lib/flow/clock.ts";
import type { Store } from "#lib/store/port.ts";
import { openSqliteStore } from "#lib/store/sqlite.ts";
import { INTEL_SETS, IntelSets } from "./intel-set.ts";
import { INDICATORS, registerIntelService } from "./service.ts";

const directory = mkdtempSync(join(tmpdir(), "gabion-intel-"));
const NOW = 1_700_000_000_000;
let places = 0;
let store: Store;
let published: bigint[];
let intelSets: IntelSets;
let clock: ManualClock;

async function open() {
  const indicators = await store.collection(INDICATORS);
  const sets = await store.collection(INTEL_SETS);
  intelSets = new IntelSets({ indicators, sets, clock, publish: ({ revision }) => published.push(revision) });
  const transport = createRouterTransport((router) => registerIntelService(router, { indicators, intelSets, clock }));
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
  const set = async () => fromBinary(IntelSetSchema, (await client.getIntelSet({})).intelSet);
  const first = await set();
  expect(first).toMatchObject({ revision: BigInt(NOW) + 1n, files: [] });
  await client.putIndicators({ indicators: [file("b"), file("a")] });
  const two = await set();
  expect(two.files.map(({ sha256 }) => Buffer.from(sha256).toString("hex"))).toEqual([hash("a"), hash("b")]);
  expect(two.revision).toBe(first.revision + 1n);
  // The same again changes nothing.
  await client.putIndicators({ indicators: [file("a")] });
  expect((await set()).revision).toBe(two.revision);
  await client.putIndicators({ indicators: [file("a", Verdict.EXCEPTION)] });
  await client.deleteIndicator({ type: IndicatorType.SHA256, value: hash("b") });
  expect(await set()).toMatchObject({ revision: first.revision + 3n, files: [] });
  expect(published).toEqual([0n, 1n, 2n, 3n].map((more) => first.revision + more));
});

test("domains and prefixes are in it with their exceptions, and are found as policy asks for them", async () => {
  const client = await open();
  const name = (type: IndicatorType, value: string, verdict: Verdict = Verdict.BAD) => ({ type, value, verdict });
  await client.putIndicators({
    indicators: [
      name(IndicatorType.DOMAIN, "Evil.example"),
      name(IndicatorType.DOMAIN, "good.evil.example", Verdict.EXCEPTION),
      name(IndicatorType.PREFIX, "203.0.113.0/24"),
      name(IndicatorType.PREFIX, "203.0.113.7", Verdict.EXCEPTION),
      name(IndicatorType.PREFIX, "2001:db8::/32"),
    ],
  });
  const intel = compileIntel(fromBinary(IntelSetSchema, (await client.getIntelSet({})).intelSet), NOW);
  const domains = [
    "evil.example",
    "a.b.evil.example",
    "good.evil.example",
    "x.good.evil.example",
    "example",
    "notevil.example",
  ];
  expect(domains.map((each) => findBadDomain(intel, each)?.value)).toEqual([
    "evil.example",
    "evil.example",
    undefined,
    undefined,
    undefined,
    undefined,
  ]);
  const addresses = ["203.0.113.5", "203.0.113.7", "203.0.114.1", "2001:db8::1", "2001:db9::1"];
  expect(addresses.map((each) => findBadAddress(intel, parsePrefix(each)?.bytes ?? new Uint8Array(4))?.value)).toEqual([
    "203.0.113.0/24",
    undefined,
    undefined,
    "2001:db8:0:0:0:0:0:0/32",
    undefined,
  ]);
});

test("what was saved and not yet published is found at the next start, what has expired is left out", async () => {
  const client = await open();
  const expireTime = timestampFromMs(NOW + 1_000);
  await client.putIndicators({ indicators: [{ ...file("c"), sources: [{ expireTime, description: "a dropper" }] }] });
  const set = fromBinary(IntelSetSchema, (await client.getIntelSet({})).intelSet);
  expect(compileIntel(set, NOW).byHash.get(hash("c"))).toMatchObject({ feed: "own", description: "a dropper" });
  expect(compileIntel(set, NOW + 1_000).byHash.size).toBe(0);
  await clock.advance(2_000);
  const again = await open();
  await intelSets.refresh();
  expect(fromBinary(IntelSetSchema, (await again.getIntelSet({})).intelSet)).toMatchObject({
    revision: set.revision + 1n,
    files: [],
  });
});
