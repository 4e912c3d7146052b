import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Transport } from "#gen/gabion/event/v1/event_pb.ts";
import { type Fact, FactSchema } from "#gen/gabion/model/v1/model_pb.ts";
import { factId } from "./fact.ts";
import { type Fold, familyFault, findFold } from "./generalise.ts";
import { compileFamilies, memberText } from "./item-pattern.ts";
import { shapeOf } from "./shape.ts";

const file = (path: string, processPath = "/usr/bin/app", isExecutable = false): Fact =>
  create(FactSchema, { kind: { case: "file", value: { path, processPath, isExecutable } } });
const domain = (name: string, recordType = 1): Fact =>
  create(FactSchema, { kind: { case: "domain", value: { name, recordType } } });
const outbound = (port: number, address = ""): Fact =>
  create(FactSchema, { kind: { case: "outbound", value: { transport: Transport.TCP, port, address } } });

/** Learns one after another, as a section does: what a family takes in is gone. */
function learn(facts: readonly Fact[]): { items: Map<string, Fact>; folds: Fold[] } {
  const items = new Map<string, Fact>();
  const folds: Fold[] = [];
  for (const fact of facts) {
    if (compileFamilies([...items.values()]).of(fact)) continue;
    items.set(factId(fact), fact);
    const fold = findFold(
      { id: factId(fact), fact },
      [...items].map(([id, each]) => ({ id, fact: each })),
    );
    if (!fold) continue;
    folds.push(fold);
    for (const id of fold.members) items.delete(id);
    items.set(factId(fold.family), fold.family);
  }
  return { items, folds };
}

const texts = (facts: readonly Fact[]) => [...learn(facts).items.values()].map(memberText).sort();
const many = (count: number, text: (i: number) => string) => Array.from({ length: count }, (_, i) => text(i));

test.each([
  ["req-1234", "req-?", "a number"],
  ["tmp.aB3dE9xQ", "tmp.?", "random characters"],
  ["2026-11-25", "?", "a date"],
  ["backup-20261125T1230.tar", "backup-?.tar", "a date"],
  ["1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed", "?", "a UUID"],
  ["sess_9f86d081884c7d65", "sess_?", "a hash"],
  ["v1.22.3", "v?.?.?", "a number"],
])("%s has the shape %s", (text, pattern, what) => {
  expect(shapeOf(text)).toMatchObject({ pattern, what });
});

test.each(["nginx", "JavaScript", "MyAppServer", "cache", "README", "node_modules"])("%s has no shape", (text) => {
  expect(shapeOf(text)).toBeUndefined();
});

test("two hexadecimal digits are a folder of a content-addressed store, and weak by themselves", () => {
  expect(shapeOf("a7")?.isFanOut).toBe(true);
  const folders = (count: number) => many(count, (i) => `/srv/objects/${(16 + i).toString(16)}`).map((p) => file(p));
  expect(texts(folders(15))).toHaveLength(15);
  expect(texts(folders(16))).toEqual(["/srv/objects/??"]);
});

test("three folders of one shape become a family that keeps what they have in common", () => {
  const { items, folds } = learn(many(40, (i) => `/srv/work/req-${i}/out`).map((p) => file(p)));
  expect([...items.values()].map(memberText)).toEqual(["/srv/work/req-?/out"]);
  expect(folds[0]?.reason).toBe("3 folders that `/usr/bin/app` writes in that differ in a number only");
  expect(folds[0]?.members).toHaveLength(3);
});

test("plain names fold by the class of their place", () => {
  const below = (folder: string, count: number) =>
    texts(
      many(count, (i) => `${folder}/${"abcdefghij"[Math.floor(i / 10)]}x${"klmnopqrst"[i % 10]}y`).map((p) => file(p)),
    );
  expect(below("/tmp", 9)).toHaveLength(9);
  expect(below("/tmp", 10)).toEqual(["/tmp/*"]);
  expect(below("/var/cache", 29)).toHaveLength(29);
  expect(below("/var/cache", 30)).toEqual(["/var/cache/*"]);
  expect(below("/app/data", 49)).toHaveLength(49);
  expect(below("/app/data", 50)).toEqual(["/app/data/*"]);
});

test.each([
  "/etc/conf.d",
  "/root/x",
  "/home/ann",
  "/proc/sys",
  "/sys/kernel",
  "/dev/pts",
  "/run/secrets/a",
  "/var/run/secrets/kubernetes.io",
  "/usr/lib/x",
  "/bin/x",
  "/app/.ssh/keys",
  "/srv/secrets/db",
])("nothing is ever folded below %s", (folder) => {
  expect(texts(many(120, (i) => `${folder}/part-${i}`).map((p) => file(p)))).toHaveLength(120);
});

test("executables are never folded, and each program has families of its own", () => {
  expect(texts(many(60, (i) => `/srv/bin/tool-${i}`).map((p) => file(p, "/usr/bin/app", true)))).toHaveLength(60);
  const mixed = ["/a", "/b", "/c"].flatMap((program) => many(2, (i) => `/srv/d/req-${i}`).map((p) => file(p, program)));
  expect(texts(mixed)).toHaveLength(6);
});

test("what varies by its making covers what is made alike, and nothing else", () => {
  const { of } = compileFamilies([...learn(["/data/1", "/data/2", "/data/3"].map((p) => file(p))).items.values()]);
  expect(of(file("/data/4711"))).toBeDefined();
  expect(of(file("/data/evil"))).toBeUndefined();
  expect(of(file("/data/.ssh"))).toBeUndefined();
});

test("no family covers a place where nothing folds, and no member comes from one", () => {
  const names = many(50, (i) => `/app/${"abcdefghij"[Math.floor(i / 10)]}x${"klmnopqrst"[i % 10]}y`);
  const { items } = learn([...names, "/app/.ssh"].map((p) => file(p)));
  const { of } = compileFamilies([...items.values()]);
  expect(of(file("/app/new"))).toBeDefined();
  expect(of(file("/app/.aws"))).toBeUndefined();
  expect([...items.values()].map(memberText)).toContain("/app/.ssh");
});

test("names that are none, or end where somebody else's begins, are never folded", () => {
  expect(texts(many(12, (i) => `api.aq?${"abcdefghijkl"[i]}.github.io`).map((n) => domain(n)))).toHaveLength(12);
  expect(texts(many(12, (i) => `api.${"abcdefghijkl"[i]}owner.github.io`).map((n) => domain(n)))).toHaveLength(12);
});

test("addresses of the Internet stand for themselves, whatever lies beside them", () => {
  expect(texts(many(30, (i) => `203.0.113.${i}`).map((a) => outbound(443, a)))).toHaveLength(30);
});

test.each([
  [file("/etc/x"), { path: "/etc/*" }],
  [file("/srv/x"), { path: "/*/x" }],
  [domain("a.example.com"), { name: "*.com" }],
  [domain("a.example.com"), { name: "*" }],
  [outbound(443, "0.0.0.0/0"), {}],
])("a family that somebody gives keeps to the same places", (fact, change) => {
  const { kind } = fact;
  const given = create(FactSchema, {
    kind: { case: kind.case, value: { ...kind.value, ...change, isPattern: true } } as never,
  });
  expect(familyFault(given)).toBeDefined();
});

test("a star that is part of a name is no pattern", () => {
  const facts = ["/srv/x/*", ...many(2, (i) => `/srv/x/n-${i}`)].map((p) => file(p));
  expect(texts(facts)).toHaveLength(3);
  expect(compileFamilies([file("/srv/x/*")]).of(file("/srv/x/evil"))).toBeUndefined();
});

test("names fold below the registrable name only", () => {
  const shards = (below: string) => many(12, (i) => `shard-${i}.${below}`).map((n) => domain(n));
  expect(texts(shards("db.example.com"))).toEqual(["shard-?.db.example.com"]);
  expect(texts(shards("example.com"))).toEqual(["shard-?.example.com"]);
  // Each of these is somebody else's: the Public Suffix List's private part.
  expect(texts(shards("s3.amazonaws.com"))).toHaveLength(12);
  expect(texts(shards("github.io"))).toHaveLength(12);
  expect(texts(shards("co.uk"))).toHaveLength(12);
});

test("ten labels without a shape make a family of one label, and record types are apart", () => {
  const names = many(10, (i) => `${"abcdefghij"[i]}lpha.svc.example.net`);
  expect(texts(names.map((n) => domain(n)))).toEqual(["*.svc.example.net"]);
  const family = learn(names.map((n) => domain(n))).folds[0]?.family as Fact;
  const { of } = compileFamilies([family]);
  expect(of(domain("new.svc.example.net"))).toBe(family);
  expect(of(domain("a.new.svc.example.net"))).toBeUndefined();
  expect(of(domain("new.svc.example.net", 16))).toBeUndefined();
  expect(of(domain("svc.example.net"))).toBeUndefined();
});

test("ports that clients are given become one, others never", () => {
  expect(texts(many(10, (i) => String(40_000 + i)).map((p) => outbound(Number(p))))).toEqual(["0"]);
  expect(texts(many(40, (i) => String(8_000 + i)).map((p) => outbound(Number(p))))).toHaveLength(40);
  expect(compileFamilies([outbound(0)]).of(outbound(443))).toBeUndefined();
});

test("addresses within become their network", () => {
  expect(texts(many(10, (i) => `10.1.2.${i}`).map((a) => outbound(8080, a)))).toEqual(["10.1.2.0/24"]);
  expect(texts(many(10, (i) => `fd00:1:2:3::${i + 1}`).map((a) => outbound(8080, a)))).toEqual(["fd00:1:2:3::/64"]);
});

test("a family covers all its members and, whatever was learned, nothing in a place where nothing folds", () => {
  const segment = fc.oneof(
    fc.constantFrom("etc", "tmp", "srv", "var", "cache", "x"),
    fc.nat(99).map((n) => `job-${n}`),
    fc.stringMatching(/^[a-z0-9]{1,8}$/),
  );
  const path = fc.array(segment, { minLength: 1, maxLength: 4 }).map((parts) => `/${parts.join("/")}`);
  fc.assert(
    fc.property(fc.array(path, { maxLength: 60 }), (paths) => {
      const facts = paths.map((p) => file(p));
      const { items, folds } = learn(facts);
      const { of } = compileFamilies([...items.values()]);
      for (const fact of facts) expect(items.has(factId(fact)) || of(fact) !== undefined).toBe(true);
      for (const { family } of folds) expect(memberText(family).startsWith("/etc")).toBe(false);
    }),
    { numRuns: 300 },
  );
});
