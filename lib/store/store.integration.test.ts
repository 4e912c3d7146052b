import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type MongoFixture, startMongo } from "../../test/fixtures/mongo-server.ts";
import { missing } from "../../test/requirements.ts";
import { openMongoStore } from "./mongodb.ts";
import { packedCodec } from "./packed-codec.ts";
import {
  AlreadyExistsError,
  type CollectionSpec,
  type Migration,
  NewerSchemaError,
  StaleRevisionError,
  type Store,
} from "./port.ts";
import { jsonCodec } from "./proto-codec.ts";
import { openSqliteStore } from "./sqlite.ts";

interface Person {
  readonly name: string;
  readonly age: number;
  readonly isAdmin: boolean;
  readonly "odd.$key"?: string;
}

const PEOPLE: CollectionSpec<Person> = {
  name: "people",
  codec: jsonCodec(({ name, age, isAdmin }) => ({ name, age, isAdmin })),
  fields: { name: { isUnique: true }, age: {}, isAdmin: { orderedBy: "age" } },
};

const directory = mkdtempSync(join(tmpdir(), "gabion-store-"));
let mongo: MongoFixture | undefined;
const noMongo = missing("mongodb");

beforeAll(async () => {
  if (noMongo === "") mongo = await startMongo();
});
afterAll(async () => {
  await mongo?.[Symbol.asyncDispose]();
  rmSync(directory, { recursive: true, force: true });
});

let places = 0;
const adapters: [string, string, (place: string, migrations?: Migration[]) => Promise<Store>][] = [
  ["SQLite", "", (place, migrations) => openSqliteStore(join(directory, `${place}.sqlite`), migrations)],
  ["MongoDB", noMongo, (place, migrations) => openMongoStore(mongo?.url ?? "", place, migrations)],
];

describe.each(adapters)("the store on %s", (_, reason, open) => {
  const contract = test.skipIf(reason !== "");
  const fresh = () => `place_${process.pid}_${places++}`;
  const ann: Person = { name: "Ann", age: 30, isAdmin: true };

  contract("a document is read as it was written, whatever stands in it", async () => {
    await using store = await open(fresh());
    const people = await store.collection(PEOPLE);
    const value = { ...ann, name: "O'Brien \"\\ \u0000 ü 😀", "odd.$key": "x" };
    await people.insert("a/b:c", value);
    expect(await people.get("a/b:c")).toEqual({ id: "a/b:c", revision: 1, value });
    expect(await people.get("none")).toBeUndefined();
  });

  contract("an id and a unique field admit one document", async () => {
    await using store = await open(fresh());
    const people = await store.collection(PEOPLE);
    await people.insert("1", ann);
    await expect(people.insert("1", { ...ann, name: "Bob" })).rejects.toThrow(AlreadyExistsError);
    await expect(people.insert("2", ann)).rejects.toThrow(AlreadyExistsError);
    expect(
      await people.insertMissing([
        { id: "1", value: ann },
        { id: "3", value: { ...ann, name: "Cy" } },
      ]),
    ).toBe(1);
    expect(await people.count()).toBe(2);
  });

  contract("a replacement needs the current revision", async () => {
    await using store = await open(fresh());
    const people = await store.collection(PEOPLE);
    await people.insert("1", ann);
    expect(await people.replace("1", { ...ann, age: 31 }, 1)).toMatchObject({ revision: 2 });
    await expect(people.replace("1", { ...ann, age: 99 }, 1)).rejects.toThrow(StaleRevisionError);
    await expect(people.replace("none", ann, 1)).rejects.toThrow(StaleRevisionError);
    expect((await people.get("1"))?.value.age).toBe(31);
    await expect(people.delete("1", 1)).rejects.toThrow(StaleRevisionError);
    expect(await people.delete("1", 2)).toBe(true);
    expect(await people.delete("1")).toBe(false);
  });

  contract(
    "what stands beside the bodies is read by itself, in the same order and by the same conditions",
    async () => {
      await using store = await open(fresh());
      const people = await store.collection({
        ...PEOPLE,
        codec: {
          ...PEOPLE.codec,
          fields: (person: Person) => ({ ...PEOPLE.codec.fields(person), shown: `${person.name}!` }),
        },
      });
      const ages = [5, 3, 9, 1];
      for (const age of ages) await people.insert(`p${age}`, { name: `n${age}`, age, isAdmin: age > 4 });
      await people.replace("p5", { name: "n5", age: 6, isAdmin: true }, 1);
      const where = [{ field: "isAdmin", is: "eq", value: true } as const];
      const query = { where, orderBy: "age", isDescending: true, limit: 10 };
      expect(await people.findFields(query)).toEqual([
        { id: "p9", revision: 1, fields: { name: "n9", age: 9, isAdmin: true, shown: "n9!" } },
        { id: "p5", revision: 2, fields: { name: "n5", age: 6, isAdmin: true, shown: "n5!" } },
      ]);
      expect((await people.findFields(query)).map(({ id }) => id)).toEqual(
        (await people.find(query)).map(({ id }) => id),
      );
    },
  );

  contract("large bodies are kept packed, and what was written before that is read too", async () => {
    await using store = await open(fresh());
    const plain = await store.collection(PEOPLE);
    const packed = await store.collection({ ...PEOPLE, codec: packedCodec(PEOPLE.codec) });
    const large = { ...ann, "odd.$key": "ü😀 \u0000".repeat(5_000) };
    await plain.insert("old", { ...large, name: "old" });
    await packed.insert("new", { ...large, name: "new" });
    await packed.insert("small", { ...ann, name: "small" });
    expect((await packed.get("old"))?.value).toEqual({ ...large, name: "old" });
    expect((await packed.get("new"))?.value).toEqual({ ...large, name: "new" });
    expect((await plain.get("small"))?.value).toEqual({ ...ann, name: "small" });
    expect(packedCodec(PEOPLE.codec).encode(large).length).toBeLessThan(2_000);
  });

  contract("queries filter, sort and page without gap or repeat", async () => {
    await using store = await open(fresh());
    const people = await store.collection(PEOPLE);
    const all = Array.from({ length: 25 }, (_, i) => ({
      id: `p${String(i).padStart(2, "0")}`,
      value: { name: `n${i}`, age: i % 4, isAdmin: i % 2 === 0 },
    }));
    await people.insertMissing(all);
    const seen: string[] = [];
    let after: { value: number; id: string } | undefined;
    for (;;) {
      const page = await people.find({ orderBy: "age", isDescending: true, limit: 7, ...(after ? { after } : {}) });
      seen.push(...page.map(({ id }) => id));
      const last = page.at(-1);
      if (!last || page.length < 7) break;
      after = { value: last.value.age, id: last.id };
    }
    const expected = all.toSorted((a, b) => b.value.age - a.value.age || (a.id < b.id ? 1 : -1)).map(({ id }) => id);
    expect(seen).toEqual(expected);
    const where = [
      { field: "age", is: "gte", value: 2 } as const,
      { field: "isAdmin", is: "eq", value: true } as const,
    ];
    expect(await people.count(where)).toBe(all.filter(({ value }) => value.age >= 2 && value.isAdmin).length);
    expect(await people.deleteWhere(where, 3)).toBe(3);
  });

  contract("each revision of a document is one write's", async () => {
    await using store = await open(fresh());
    const people = await store.collection(PEOPLE);
    await people.insert("1", { ...ann, age: 0 });
    const raise = async () => {
      const stored = await people.get("1");
      if (stored) await people.replace("1", { ...stored.value, age: stored.value.age + 1 }, stored.revision);
    };
    // One after another where the server does not make revision checks atomic (FerretDB on SQLite, platform facts §10).
    for (let i = 0; i < 20; i += 1) await raise();
    expect(await people.get("1")).toMatchObject({ revision: 21, value: { age: 20 } });
  });

  contract("data outlives its process, migrations run once, and newer data is refused", async () => {
    const place = fresh();
    const ran: number[] = [];
    const step = (version: number): Migration => ({
      version,
      run: async (store) => {
        ran.push(version);
        await (await store.collection(PEOPLE)).insertMissing([
          { id: `m${version}`, value: { ...ann, name: `m${version}` } },
        ]);
      },
    });
    await (await open(place, [step(1)]))[Symbol.asyncDispose]();
    await (await open(place, [step(1), step(2)]))[Symbol.asyncDispose]();
    expect(ran).toEqual([1, 2]);
    await expect(open(place, [step(1)])).rejects.toThrow(NewerSchemaError);
    await expect(open(place, [step(1)])).rejects.toThrow(/schema version 2, this Gabion knows up to 1/);
    await using store = await open(place, [step(1), step(2)]);
    expect(await (await store.collection(PEOPLE)).count()).toBe(2);
  });
});

test("what SQLite acknowledged survives kill -9 at any moment", async () => {
  const path = join(directory, "killed.sqlite");
  const script = `
    import { openSqliteStore } from ${JSON.stringify(new URL("sqlite.ts", import.meta.url).href)};
    const codec = { encode: JSON.stringify, decode: JSON.parse, fields: () => ({}) };
    const store = await openSqliteStore(${JSON.stringify(path)});
    const items = await store.collection({ name: "items", codec, fields: {} });
    for (let i = 0; ; i++) { await items.insertMissing([{ id: process.argv[2] + "-" + i, value: i }]); console.log(process.argv[2] + "-" + i); }
  `;
  const program = join(directory, "writer.ts");
  writeFileSync(program, script);
  const acknowledged: string[] = [];
  for (const round of ["a", "b", "c"]) {
    const child = spawn(process.execPath, [program, round], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const enough = 50 + Math.floor(Math.random() * 200);
    let output = "";
    child.stdout.on("data", (chunk: Buffer) => {
      output += chunk;
      if (output.split("\n").length > enough) child.kill("SIGKILL");
    });
    await new Promise((done) => child.once("close", done));
    acknowledged.push(...output.split("\n").slice(0, -1));
  }
  await using store = await openSqliteStore(path);
  const items = await store.collection({ name: "items", codec: jsonCodec<number>(() => ({})), fields: {} });
  const found = new Set((await items.find({ limit: 10_000 })).map(({ id }) => id));
  expect(acknowledged.length).toBeGreaterThan(150);
  expect(acknowledged.filter((id) => !found.has(id))).toEqual([]);
});

test("many writers at once on one document: each revision is one writer's", async () => {
  await using store = await openSqliteStore(join(directory, "race.sqlite"));
  const people = await store.collection(PEOPLE);
  await people.insert("1", { name: "n", age: 0, isAdmin: false });
  const raise = async (): Promise<void> => {
    const stored = await people.get("1");
    const next = { name: "n", age: (stored?.value.age ?? 0) + 1, isAdmin: false };
    await people.replace("1", next, stored?.revision ?? 0).catch((error: unknown) => {
      if (!(error instanceof StaleRevisionError)) throw error;
      return raise();
    });
  };
  await Promise.all(Array.from({ length: 30 }, raise));
  expect(await people.get("1")).toMatchObject({ revision: 31, value: { age: 30 } });
});

test("a page in the order of another field is read from an index, without sorting", async () => {
  const path = join(directory, "ordered.sqlite");
  await using store = await openSqliteStore(path);
  await store.collection(PEOPLE);
  const database = new DatabaseSync(path);
  const field = (name: string) => `json_extract(fields, '$.${name}')`;
  const sql = `SELECT id FROM people WHERE ${field("isAdmin")} = 1 ORDER BY ${field("age")} DESC, id DESC LIMIT 10`;
  const plan = database
    .prepare(`EXPLAIN QUERY PLAN ${sql}`)
    .all()
    .map(({ detail }) => String(detail));
  database.close();
  expect(plan.join()).toMatch(/USING (COVERING )?INDEX people_isAdmin/);
  expect(plan.join()).not.toMatch(/TEMP B-TREE/);
});

test("one failing write does not take the others of its group with it", async () => {
  await using store = await openSqliteStore(join(directory, "group.sqlite"));
  const people = await store.collection(PEOPLE);
  const writes = Array.from({ length: 200 }, (_, i) =>
    people.insert(`p${i % 150}`, { name: `n${i}`, age: i, isAdmin: false }),
  );
  const results = await Promise.allSettled(writes);
  expect(results.filter(({ status }) => status === "rejected")).toHaveLength(50);
  expect(await people.count()).toBe(150);
});
