import { type KV, Kvm } from "@nats-io/kv";
import type { Bus } from "./connection.ts";
import { POLICY_BUCKET } from "./topology.ts";

/** The bucket that carries the signed heads of rule set and models. For services; nodes only listen to its subjects. */
export interface PolicyBucket {
  put(key: string, envelope: Uint8Array): Promise<void>;
  remove(key: string): Promise<void>;
  get(key: string): Promise<Uint8Array | undefined>;
  /** When the bucket was made: another answer means that the server lost what was in it. */
  birth(): Promise<string>;
}

const BUCKET_MAX_BYTES = 256 * 1024 * 1024;

function adapt(kv: KV): PolicyBucket {
  return {
    async put(key, envelope) {
      await kv.put(key, envelope);
    },
    async remove(key) {
      await kv.purge(key);
    },
    async get(key) {
      const entry = await kv.get(key);
      return entry?.operation === "PUT" ? entry.value : undefined;
    },
    async birth() {
      return (await kv.status()).streamInfo.created;
    },
  };
}

/** Opens the bucket, making it where it is missing. */
export async function ensurePolicyBucket(bus: Bus): Promise<PolicyBucket> {
  return adapt(await new Kvm(await bus.jetstream()).create(POLICY_BUCKET, { history: 1, max_bytes: BUCKET_MAX_BYTES }));
}
