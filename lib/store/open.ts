import { join } from "node:path";
import { openMongoStore } from "./mongodb.ts";
import type { Migration, Store } from "./port.ts";
import { openSqliteStore } from "./sqlite.ts";

/** Opens the store of one service: MongoDB where a URL is set, else a file of its own in the data folder. */
export function openStore(
  options: { readonly dataDirectory: string; readonly mongodbUrl: string },
  service: string,
  migrations: readonly Migration[],
): Promise<Store> {
  return options.mongodbUrl === ""
    ? openSqliteStore(join(options.dataDirectory, `${service}.sqlite`), migrations)
    : openMongoStore(options.mongodbUrl, `gabion_${service}`, migrations);
}
