import { Code } from "@connectrpc/connect";
import { RpcFault } from "../rpc/errors.ts";
import type { Collection, FieldValue, Query, Stored } from "../store/port.ts";

/** Items on a page where the caller names no number. */
export const DEFAULT_PAGE_SIZE = 100;

interface Position {
  readonly value: FieldValue;
  readonly id: string;
}

function encode(position: Position): string {
  return Buffer.from(JSON.stringify([position.value, position.id])).toString("base64url");
}

function decode(token: string): Position {
  try {
    const [value, id] = JSON.parse(Buffer.from(token, "base64url").toString("utf8")) as [FieldValue, string];
    if (typeof id !== "string" || !["string", "number"].includes(typeof value)) throw new Error("no position");
    return { value, id };
  } catch (cause) {
    throw Object.assign(
      new RpcFault(
        Code.InvalidArgument,
        "BAD_PAGE_TOKEN",
        "`page_token` is not one of this service: begin without one",
      ),
      { cause },
    );
  }
}

export interface PageRequest {
  readonly pageSize: number;
  readonly pageToken: string;
}

export interface PageQuery<T> extends Omit<Query, "limit" | "after"> {
  /** Value that the page is ordered by; the id where it is left out. */
  readonly positionOf?: (value: T) => FieldValue;
  /** What the store cannot ask for. Pages are filled all the same, up to a bound of documents read. */
  readonly passes?: (document: Stored<T>) => boolean;
}

/** Documents read for one page at most, where few of them pass. */
const READ_MAX = 10_000;

interface Slice<T> {
  readonly found: readonly Stored<T>[];
  /** Where the next slice begins; undefined at the end. */
  readonly next: Position | undefined;
}

async function readSlice<T>(
  collection: Pick<Collection<T>, "find">,
  query: Omit<Query, "limit">,
  size: number,
  positionAt: (document: Stored<T>) => Position,
): Promise<Slice<T>> {
  const read = await collection.find({ ...query, limit: size + 1 });
  const found = read.slice(0, size);
  const last = found.at(-1);
  return { found, next: read.length > size && last ? positionAt(last) : undefined };
}

/** One page of documents and the token of the next, empty on the last. */
export async function readPage<T>(
  collection: Pick<Collection<T>, "find">,
  { pageSize, pageToken }: PageRequest,
  { positionOf, passes = () => true, ...query }: PageQuery<T>,
): Promise<{ readonly documents: Stored<T>[]; readonly nextPageToken: string }> {
  const size = pageSize === 0 ? DEFAULT_PAGE_SIZE : pageSize;
  const positionAt = ({ value, id }: Stored<T>): Position => ({ value: positionOf ? positionOf(value) : id, id });
  const documents: Stored<T>[] = [];
  let next = pageToken === "" ? undefined : decode(pageToken);
  for (let read = 0; read < READ_MAX && documents.length < size; read += size) {
    const after = next ? { after: next } : {};
    // Never more than the page still takes, so that the token is that of the last document read.
    const slice = await readSlice(collection, { ...query, ...after }, size - documents.length, positionAt);
    documents.push(...slice.found.filter(passes));
    next = slice.next;
    if (!next) return { documents, nextPageToken: "" };
  }
  return { documents, nextPageToken: next ? encode(next) : "" };
}
