import {
  type Collection,
  type CollectionSpec,
  type Migration,
  NewerSchemaError,
  StaleRevisionError,
  type Store,
} from "./port.ts";
import { jsonCodec } from "./proto-codec.ts";

interface SchemaVersion {
  readonly version: number;
}

const SCHEMA: CollectionSpec<SchemaVersion> = { name: "schema_version", codec: jsonCodec(() => ({})), fields: {} };

async function current(collection: Collection<SchemaVersion>) {
  const found = await collection.get("schema");
  if (found) return found;
  await collection.insertMissing([{ id: "schema", value: { version: 0 } }]);
  return (await collection.get("schema")) ?? { id: "schema", revision: 1, value: { version: 0 } };
}

/**
 * Runs the steps that the data has not had. Data of a newer version is refused: an older program would lose what it
 * does not know. Replicas that start together may both run a step, which is why steps are idempotent.
 */
export async function applyMigrations(store: Store, place: string, migrations: readonly Migration[]): Promise<void> {
  const collection = await store.collection(SCHEMA);
  const known = migrations.at(-1)?.version ?? 0;
  let stored = await current(collection);
  if (stored.value.version > known) {
    throw new NewerSchemaError(
      `${place} has schema version ${stored.value.version}, this Gabion knows up to ${known}: use the newer Gabion or another place`,
    );
  }
  for (const { version, run } of migrations) {
    if (version <= stored.value.version) continue;
    await run(store);
    try {
      stored = await collection.replace("schema", { version }, stored.revision);
    } catch (error) {
      if (!(error instanceof StaleRevisionError)) throw error;
      stored = await current(collection);
    }
  }
}
