import { opendir } from "node:fs/promises";

/** One entry of a folder. */
export interface FolderEntry {
  readonly name: Buffer;
  readonly isFolder: boolean;
}

/** Entries of a folder one after another: it may hold more than there is memory for. Throws where it cannot be read. */
export async function* entriesOf(directory: Buffer): AsyncGenerator<FolderEntry> {
  // Names are bytes; the types of `opendir` know of text only.
  const open = opendir as unknown as (path: Buffer, options: { encoding: "buffer" }) => ReturnType<typeof opendir>;
  for await (const entry of await open(directory, { encoding: "buffer" })) {
    yield { name: entry.name as unknown as Buffer, isFolder: entry.isDirectory() };
  }
}
