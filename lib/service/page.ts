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

/** One page of documents and the token of the next, empty on the last. */
export async function readPage<T>(
  collection: Collection<T>,
  { pageSize, pageToken }: PageRequest,
  query: Omit<Query, "limit" | "after"> & { readonly positionOf?: (value: T) => FieldValue },
): Promise<{ readonly documents: Stored<T>[]; readonly nextPageToken: string }> {
  const size = pageSize === 0 ? DEFAULT_PAGE_SIZE : pageSize;
  const { positionOf, ...rest } = query;
  const after = pageToken === "" ? {} : { after: decode(pageToken) };
  const found = await collection.find({ ...rest, ...after, limit: size + 1 });
  const documents = found.slice(0, size);
  const last = documents.at(-1);
  if (found.length <= size || !last) return { documents, nextPageToken: "" };
  return { documents, nextPageToken: encode({ value: positionOf ? positionOf(last.value) : last.id, id: last.id }) };
}
