import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { Worker } from "node:worker_threads";
import { applyMigrations } from "./migrations.ts";
import {
  AlreadyExistsError,
  type Collection,
  type CollectionSpec,
  type Condition,
  checkedLimit,
  checkedName,
  type Fields,
  type FieldValue,
  type Migration,
  type Query,
  StaleRevisionError,
  type Store,
  StoreBusyError,
  type Stored,
  type StoredFields,
} from "./port.ts";
import type { WriteAnswer, WriteRequest } from "./sqlite-writer.ts";

/** Writes that may wait; beyond it callers are told that the store is busy. */
const QUEUE_MAX = 50_000;
/** Writes committed together at most. */
const GROUP_MAX = 2_000;
const COMPARISONS = { eq: "=", lt: "<", lte: "<=", gt: ">", gte: ">=" } as const;

interface Waiting {
  readonly resolve: (answer: WriteAnswer) => void;
  readonly reject: (error: Error) => void;
}

/** Sends writes to the writer thread in groups: while one is being committed the next one gathers. */
class Writer implements AsyncDisposable {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  readonly #exited: Promise<void>;
  #queue: WriteRequest[] = [];
  #number = 0;
  #isBusy = false;
  #isClosed = false;

  constructor(path: string) {
    this.#worker = new Worker(new URL("./sqlite-writer.ts", import.meta.url), { workerData: { path } });
    this.#worker.on("message", (answers: readonly WriteAnswer[]) => this.#answer(answers));
    this.#worker.on("error", (error) => this.#fail(error as Error));
    this.#exited = new Promise((resolve) => this.#worker.once("exit", () => resolve()));
  }

  write(sql: string, ...parameters: (string | number)[]): Promise<WriteAnswer> {
    if (this.#isClosed) return Promise.reject(new Error("the store is closed"));
    if (this.#waiting.size >= QUEUE_MAX) return Promise.reject(new StoreBusyError(`${QUEUE_MAX} writes are waiting`));
    this.#number += 1;
    const number = this.#number;
    this.#queue.push({ number, sql, parameters });
    const promise = new Promise<WriteAnswer>((resolve, reject) => this.#waiting.set(number, { resolve, reject }));
    this.#flush();
    return promise;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    while (this.#waiting.size > 0) await new Promise((resolve) => setImmediate(resolve));
    this.#isClosed = true;
    this.#worker.postMessage("close");
    await this.#exited;
  }

  #flush(): void {
    if (this.#isBusy || this.#queue.length === 0) return;
    this.#isBusy = true;
    this.#worker.postMessage(this.#queue.slice(0, GROUP_MAX));
    this.#queue = this.#queue.slice(GROUP_MAX);
  }

  #answer(answers: readonly WriteAnswer[]): void {
    this.#isBusy = false;
    this.#flush();
    for (const answer of answers) {
      const waiting = this.#waiting.get(answer.number);
      this.#waiting.delete(answer.number);
      if (answer.error === undefined) waiting?.resolve(answer);
      else waiting?.reject(toError(answer.error));
    }
  }

  #fail(error: Error): void {
    this.#isClosed = true;
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}

function toError(message: string): Error {
  return /UNIQUE constraint failed/.test(message) ? new AlreadyExistsError(message) : new Error(message);
}

function column(field: string): string {
  return field === "id" ? "id" : `json_extract(fields, '$.${checkedName(field)}')`;
}

/** SQLite's JSON has 1 and 0 for truth values. */
function parameter(value: FieldValue): string | number {
  return typeof value === "boolean" ? Number(value) : value;
}

interface Clause {
  readonly sql: string;
  readonly parameters: (string | number)[];
}

function whereClause(where: readonly Condition[], query?: Pick<Query, "after" | "orderBy" | "isDescending">): Clause {
  const parts = where.map(({ field, is }) => `${column(field)} ${COMPARISONS[is]} ?`);
  const parameters = where.map(({ value }) => parameter(value));
  if (query?.after) {
    parts.push(`(${column(query.orderBy ?? "id")}, id) ${query.isDescending ? "<" : ">"} (?, ?)`);
    parameters.push(parameter(query.after.value), query.after.id);
  }
  return { sql: parts.length === 0 ? "" : `WHERE ${parts.join(" AND ")}`, parameters };
}

interface Row {
  readonly id: string;
  readonly revision: number;
  readonly body: string;
}

class SqliteCollection<T> implements Collection<T> {
  readonly #spec: CollectionSpec<T>;
  readonly #writer: Writer;
  readonly #reader: DatabaseSync;

  constructor(spec: CollectionSpec<T>, writer: Writer, reader: DatabaseSync) {
    this.#spec = spec;
    this.#writer = writer;
    this.#reader = reader;
  }

  async get(id: string): Promise<Stored<T> | undefined> {
    const row = this.#reader.prepare(`SELECT id, revision, body FROM ${this.#spec.name} WHERE id = ?`).get(id);
    return row === undefined ? undefined : this.#stored(row as unknown as Row);
  }

  async insert(id: string, value: T): Promise<Stored<T>> {
    await this.#writer.write(`INSERT INTO ${this.#spec.name} VALUES (?, 1, ?, ?)`, id, ...this.#columns(value));
    return { id, revision: 1, value };
  }

  async insertMissing(documents: readonly { id: string; value: T }[]): Promise<number> {
    const sql = `INSERT INTO ${this.#spec.name} VALUES (?, 1, ?, ?) ON CONFLICT DO NOTHING`;
    const answers = await Promise.all(
      documents.map(({ id, value }) => this.#writer.write(sql, id, ...this.#columns(value))),
    );
    return answers.reduce((sum, { changes }) => sum + changes, 0);
  }

  async replace(id: string, value: T, revision: number): Promise<Stored<T>> {
    const [fields, body] = this.#columns(value);
    const sql = `UPDATE ${this.#spec.name} SET revision = revision + 1, fields = ?, body = ? WHERE id = ? AND revision = ?`;
    const { changes } = await this.#writer.write(sql, fields, body, id, revision);
    if (changes === 0) throw new StaleRevisionError(`${this.#spec.name} ${id} is not at revision ${revision}`);
    return { id, revision: revision + 1, value };
  }

  async delete(id: string, revision?: number): Promise<boolean> {
    const check = revision === undefined ? "" : " AND revision = ?";
    const parameters = revision === undefined ? [id] : [id, revision];
    const sql = `DELETE FROM ${this.#spec.name} WHERE id = ?${check}`;
    const { changes } = await this.#writer.write(sql, ...parameters);
    if (changes === 0 && revision !== undefined && (await this.get(id)) !== undefined) {
      throw new StaleRevisionError(`${this.#spec.name} ${id} is not at revision ${revision}`);
    }
    return changes > 0;
  }

  async find(query: Query): Promise<Stored<T>[]> {
    return this.#select("id, revision, body", query).map((row) => this.#stored(row as unknown as Row));
  }

  async findFields(query: Query): Promise<StoredFields[]> {
    return this.#select("id, revision, fields", query).map((row) => {
      const { id, revision, fields } = row as unknown as { id: string; revision: number; fields: string };
      return { id, revision, fields: JSON.parse(fields) as Fields };
    });
  }

  #select(columns: string, query: Query): unknown[] {
    const { sql, parameters } = whereClause(query.where ?? [], query);
    const direction = query.isDescending ? "DESC" : "ASC";
    const order = `ORDER BY ${column(query.orderBy ?? "id")} ${direction}, id ${direction}`;
    const text = `SELECT ${columns} FROM ${this.#spec.name} ${sql} ${order} LIMIT ?`;
    return this.#reader.prepare(text).all(...parameters, checkedLimit(query.limit));
  }

  async count(where: readonly Condition[] = []): Promise<number> {
    const { sql, parameters } = whereClause(where);
    const row = this.#reader.prepare(`SELECT count(*) AS n FROM ${this.#spec.name} ${sql}`).get(...parameters);
    return (row as unknown as { n: number }).n;
  }

  async deleteWhere(where: readonly Condition[], limit: number): Promise<number> {
    const { sql, parameters } = whereClause(where);
    const inner = `SELECT id FROM ${this.#spec.name} ${sql} LIMIT ?`;
    const text = `DELETE FROM ${this.#spec.name} WHERE id IN (${inner})`;
    return (await this.#writer.write(text, ...parameters, checkedLimit(limit))).changes;
  }

  #columns(value: T): [string, string] {
    return [JSON.stringify(this.#spec.codec.fields(value)), this.#spec.codec.encode(value)];
  }

  #stored({ id, revision, body }: Row): Stored<T> {
    return { id, revision, value: this.#spec.codec.decode(body) };
  }
}

async function createTable<T>(spec: CollectionSpec<T>, writer: Writer): Promise<void> {
  const name = checkedName(spec.name);
  const columns = "id TEXT PRIMARY KEY, revision INTEGER NOT NULL, fields TEXT NOT NULL, body TEXT NOT NULL";
  await writer.write(`CREATE TABLE IF NOT EXISTS ${name} (${columns}) STRICT, WITHOUT ROWID`);
  for (const [field, { isUnique, orderedBy }] of Object.entries(spec.fields)) {
    const kind = isUnique ? "UNIQUE INDEX" : "INDEX";
    const order = orderedBy === undefined ? "" : `, ${column(orderedBy)}`;
    const tie = isUnique ? "" : `${order}, id`;
    await writer.write(`CREATE ${kind} IF NOT EXISTS ${name}_${field} ON ${name} (${column(field)}${tie})`);
  }
}

/**
 * Opens a store in one SQLite file, made where there is none. What was answered is on disk: it survives the process
 * being killed and the machine losing power.
 */
export async function openSqliteStore(path: string, migrations: readonly Migration[] = []): Promise<Store> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const reader = new DatabaseSync(path);
  reader.exec("PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL");
  reader.exec("PRAGMA wal_autocheckpoint = 10000");
  const writer = new Writer(path);
  const collection = async <T>(spec: CollectionSpec<T>): Promise<Collection<T>> => {
    await createTable(spec, writer);
    return new SqliteCollection(spec, writer, reader);
  };
  const store: Store = {
    collection,
    async [Symbol.asyncDispose]() {
      await writer[Symbol.asyncDispose]();
      reader.close();
    },
  };
  try {
    await applyMigrations(store, path, migrations);
  } catch (error) {
    await store[Symbol.asyncDispose]();
    throw error;
  }
  return store;
}
