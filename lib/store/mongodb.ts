import {
  type Db,
  type Filter,
  type FindCursor,
  MongoBulkWriteError,
  MongoClient,
  type Collection as MongoCollection,
  MongoServerError,
} from "mongodb";
import { applyMigrations } from "./migrations.ts";
import {
  AlreadyExistsError,
  type Collection,
  type CollectionSpec,
  type Condition,
  checkedLimit,
  checkedName,
  type Fields,
  type Migration,
  type Query,
  StaleRevisionError,
  type Store,
  type Stored,
  type StoredFields,
} from "./port.ts";

/** A document as MongoDB holds it: search fields of its own, the body as text, so that any key may stand in it. */
interface MongoDocument {
  readonly _id: string;
  readonly revision: number;
  readonly fields: Fields;
  readonly body: string;
}

const DUPLICATE_KEY = 11_000;
const SERVER_SELECTION_MS = 5_000;

function path(field: string): string {
  return field === "id" ? "_id" : `fields.${checkedName(field)}`;
}

function conditionFilter({ field, is, value }: Condition): Filter<MongoDocument> {
  return { [path(field)]: { [`$${is}`]: value } };
}

/** What comes after a position, written out: compound comparison is not in the portable subset. */
function afterFilter({ after, orderBy = "id", isDescending }: Query): Filter<MongoDocument>[] {
  if (!after) return [];
  const beyond = isDescending ? "$lt" : "$gt";
  if (orderBy === "id") return [{ _id: { [beyond]: after.id } } as Filter<MongoDocument>];
  const tie = { $and: [{ [path(orderBy)]: { $eq: after.value } }, { _id: { [beyond]: after.id } }] };
  return [{ $or: [{ [path(orderBy)]: { [beyond]: after.value } }, tie] } as Filter<MongoDocument>];
}

function allOf(filters: readonly Filter<MongoDocument>[]): Filter<MongoDocument> {
  return filters.length === 0 ? {} : ({ $and: filters } as Filter<MongoDocument>);
}

function isDuplicate(error: unknown): boolean {
  return error instanceof MongoServerError && error.code === DUPLICATE_KEY;
}

function isDuplicateOnly({ writeErrors }: MongoBulkWriteError): boolean {
  return [writeErrors].flat().every(({ code }) => code === DUPLICATE_KEY);
}

class MongoCollectionAdapter<T> implements Collection<T> {
  readonly #spec: CollectionSpec<T>;
  readonly #documents: MongoCollection<MongoDocument>;

  constructor(spec: CollectionSpec<T>, documents: MongoCollection<MongoDocument>) {
    this.#spec = spec;
    this.#documents = documents;
  }

  async get(id: string): Promise<Stored<T> | undefined> {
    const found = await this.#documents.findOne({ _id: id });
    return found ? this.#stored(found) : undefined;
  }

  async insert(id: string, value: T): Promise<Stored<T>> {
    try {
      await this.#documents.insertOne(this.#document(id, value, 1));
    } catch (error) {
      if (!isDuplicate(error)) throw error;
      throw new AlreadyExistsError(`${this.#spec.name} ${id} is there already`, { cause: error });
    }
    return { id, revision: 1, value };
  }

  async insertMissing(documents: readonly { id: string; value: T }[]): Promise<number> {
    if (documents.length === 0) return 0;
    try {
      const all = documents.map(({ id, value }) => this.#document(id, value, 1));
      return (await this.#documents.insertMany(all, { ordered: false })).insertedCount;
    } catch (error) {
      if (!(error instanceof MongoBulkWriteError) || !isDuplicateOnly(error)) throw error;
      return error.insertedCount;
    }
  }

  async replace(id: string, value: T, revision: number): Promise<Stored<T>> {
    const { fields, body } = this.#document(id, value, revision);
    const change = { $set: { fields, body }, $inc: { revision: 1 } };
    const { matchedCount } = await this.#documents.updateOne({ _id: id, revision }, change);
    if (matchedCount === 0) throw new StaleRevisionError(`${this.#spec.name} ${id} is not at revision ${revision}`);
    return { id, revision: revision + 1, value };
  }

  async delete(id: string, revision?: number): Promise<boolean> {
    const { deletedCount } = await this.#documents.deleteOne(
      revision === undefined ? { _id: id } : { _id: id, revision },
    );
    if (deletedCount === 0 && revision !== undefined && (await this.get(id)) !== undefined) {
      throw new StaleRevisionError(`${this.#spec.name} ${id} is not at revision ${revision}`);
    }
    return deletedCount > 0;
  }

  async find(query: Query): Promise<Stored<T>[]> {
    return (await this.#select(query).toArray()).map((document) => this.#stored(document));
  }

  async findFields(query: Query): Promise<StoredFields[]> {
    const found = this.#select(query).project<Omit<MongoDocument, "body">>({ body: 0 });
    return (await found.toArray()).map(({ _id, revision, fields }) => ({ id: _id, revision, fields }));
  }

  #select(query: Query): FindCursor<MongoDocument> {
    const direction = query.isDescending ? -1 : 1;
    const orderBy = path(query.orderBy ?? "id");
    const filter = allOf([...(query.where ?? []).map(conditionFilter), ...afterFilter(query)]);
    const sort: [string, 1 | -1][] =
      orderBy === "_id"
        ? [["_id", direction]]
        : [
            [orderBy, direction],
            ["_id", direction],
          ];
    return this.#documents.find(filter).sort(sort).limit(checkedLimit(query.limit)) as FindCursor<MongoDocument>;
  }

  async count(where: readonly Condition[] = []): Promise<number> {
    return this.#documents.countDocuments(allOf(where.map(conditionFilter)));
  }

  async deleteWhere(where: readonly Condition[], limit: number): Promise<number> {
    const filter = allOf(where.map(conditionFilter));
    const found = await this.#documents
      .find(filter)
      .project<{ _id: string }>({ _id: 1 })
      .limit(checkedLimit(limit))
      .toArray();
    if (found.length === 0) return 0;
    return (await this.#documents.deleteMany({ _id: { $in: found.map(({ _id }) => _id) } })).deletedCount;
  }

  #document(id: string, value: T, revision: number): MongoDocument {
    return { _id: id, revision, fields: this.#spec.codec.fields(value), body: this.#spec.codec.encode(value) };
  }

  #stored({ _id, revision, body }: MongoDocument): Stored<T> {
    return { id: _id, revision, value: this.#spec.codec.decode(body) };
  }
}

async function createIndexes<T>(database: Db, spec: CollectionSpec<T>): Promise<void> {
  for (const [field, { isUnique, orderedBy }] of Object.entries(spec.fields)) {
    const order = orderedBy === undefined ? {} : { [path(orderedBy)]: 1 };
    const keys = isUnique ? { [path(field)]: 1 } : { [path(field)]: 1, ...order, _id: 1 };
    await database.collection(spec.name).createIndex(keys as Record<string, 1>, { unique: isUnique === true });
  }
}

/** Opens a store in one MongoDB database, with majority write concern. Fails within 5 s where no server answers. */
export async function openMongoStore(
  url: string,
  databaseName: string,
  migrations: readonly Migration[] = [],
): Promise<Store> {
  const client = new MongoClient(url, {
    serverSelectionTimeoutMS: SERVER_SELECTION_MS,
    maxPoolSize: 20,
    writeConcern: { w: "majority" },
  });
  const store: Store = {
    async collection<T>(spec: CollectionSpec<T>) {
      const database = client.db(databaseName);
      await createIndexes(database, spec);
      return new MongoCollectionAdapter(spec, database.collection<MongoDocument>(checkedName(spec.name)));
    },
    [Symbol.asyncDispose]: () => client.close(),
  };
  try {
    await client.connect();
    await applyMigrations(store, `database ${databaseName}`, migrations);
  } catch (error) {
    await client.close();
    throw error;
  }
  return store;
}
