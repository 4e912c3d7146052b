/**
 * The one way to durable data. Two adapters stand behind it, embedded SQLite and MongoDB; both pass the same contract
 * suite. Only single documents change atomically, so an aggregate is one document.
 */

/** What a document is found by besides its id. */
export type FieldValue = string | number | boolean;
export type Fields = Readonly<Record<string, FieldValue>>;

/** How a value becomes a document and back. */
export interface Codec<T> {
  readonly encode: (value: T) => string;
  readonly decode: (body: string) => T;
  /**
   * Fields beside the body: for searching, where the collection's `fields` list them, and for what is shown of many
   * documents at once.
   */
  readonly fields: (value: T) => Fields;
}

export interface CollectionSpec<T> {
  readonly name: string;
  readonly codec: Codec<T>;
  /**
   * Indexed fields. A unique one admits each value once; one that is read in the order of another field names it, so
   * that a page costs as much as it shows and not as much as there is.
   */
  readonly fields: Readonly<Record<string, { readonly isUnique?: true; readonly orderedBy?: string }>>;
}

/** A document as stored. The revision begins at 1 and grows with each replacement. */
export interface Stored<T> {
  readonly id: string;
  readonly revision: number;
  readonly value: T;
}

/** What stands beside a document's body. */
export interface StoredFields {
  readonly id: string;
  readonly revision: number;
  readonly fields: Fields;
}

export type Comparison = "eq" | "lt" | "lte" | "gt" | "gte";

/** One condition on a field, or on the document's id as `id`. */
export interface Condition {
  readonly field: string;
  readonly is: Comparison;
  readonly value: FieldValue;
}

export interface Query {
  readonly where?: readonly Condition[];
  /** Field to order by; ties are broken by id. Default: id. */
  readonly orderBy?: string;
  readonly isDescending?: boolean;
  /** Position of the last document of the page before. */
  readonly after?: { readonly value: FieldValue; readonly id: string };
  /** At most this many, up to 10,000. */
  readonly limit: number;
}

/** A document of this id, or with this value of a unique field, is there already. */
export class AlreadyExistsError extends Error {
  override readonly name = "AlreadyExistsError";
}

/** The document was changed or removed since it was read. */
export class StaleRevisionError extends Error {
  override readonly name = "StaleRevisionError";
}

/** More writes wait than the store takes in. */
export class StoreBusyError extends Error {
  override readonly name = "StoreBusyError";
}

/** The data was written by a newer Gabion. */
export class NewerSchemaError extends Error {
  override readonly name = "NewerSchemaError";
}

export interface Collection<T> {
  get(id: string): Promise<Stored<T> | undefined>;
  /** Fails with AlreadyExistsError. */
  insert(id: string, value: T): Promise<Stored<T>>;
  /** Adds those that are not there yet; answers how many were added. */
  insertMissing(documents: readonly { readonly id: string; readonly value: T }[]): Promise<number>;
  /** Fails with StaleRevisionError unless the revision is the current one. */
  replace(id: string, value: T, revision: number): Promise<Stored<T>>;
  /** Removes; with a revision only that one, failing with StaleRevisionError. False where nothing was there. */
  delete(id: string, revision?: number): Promise<boolean>;
  find(query: Query): Promise<Stored<T>[]>;
  /** As `find`, without reading bodies. */
  findFields(query: Query): Promise<StoredFields[]>;
  count(where?: readonly Condition[]): Promise<number>;
  /** Removes up to `limit` documents that match; answers how many. For sweeps, in slices. */
  deleteWhere(where: readonly Condition[], limit: number): Promise<number>;
}

export interface Store extends AsyncDisposable {
  /** Opens a collection, making its indexes. */
  collection<T>(spec: CollectionSpec<T>): Promise<Collection<T>>;
}

/** Brings data from version N−1 to N; the first has version 1. Steps are idempotent: one may be cut off. */
export interface Migration {
  readonly version: number;
  readonly run: (store: Store) => Promise<void>;
}

/** Highest number of documents that one query answers. */
export const MAX_LIMIT = 10_000;

/** The limit of a query, checked. */
export function checkedLimit(limit: number): number {
  if (!Number.isInteger(limit) || limit < 1 || limit > MAX_LIMIT) {
    throw new RangeError(`a query's limit must be 1 to ${MAX_LIMIT}, not ${limit}`);
  }
  return limit;
}

const NAME = /^[a-z][a-zA-Z0-9_]{0,62}$/;

/** Names become parts of statements: only plain ones are let through. */
export function checkedName(name: string): string {
  if (!NAME.test(name)) throw new RangeError(`\`${name}\` is no name for a collection or field`);
  return name;
}
