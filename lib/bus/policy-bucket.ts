import { type KV, Kvm } from "@nats-io/kv";
import type { Bus } from "./connection.ts";
import { POLICY_BUCKET } from "./topology.ts";

/** The bucket that carries the signed heads of rule set and models. */
export interface PolicyBucket {
  put(key: string, envelope: Uint8Array): Promise<void>;
  remove(key: string): Promise<void>;
  get(key: string): Promise<Uint8Array | undefined>;
  /** Each entry now and whenever it changes, until the signal aborts. Ends by itself when the bucket is lost. */
  watch(keys: string, signal: AbortSignal): AsyncIterable<{ readonly key: string; readonly envelope: Uint8Array }>;
}

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
    async *watch(keys, signal) {
      const entries = await kv.watch({ key: keys });
      const stop = () => entries.stop();
      signal.addEventListener("abort", stop, { once: true });
      try {
        for await (const entry of entries) {
          if (entry.operation === "PUT") yield { key: entry.key, envelope: entry.value };
        }
      } finally {
        signal.removeEventListener("abort", stop);
        entries.stop();
      }
    },
  };
}

/** Opens the bucket for a service, making it where it is missing. */
export async function ensurePolicyBucket(bus: Bus): Promise<PolicyBucket> {
  return adapt(await new Kvm(bus.jetstream).create(POLICY_BUCKET, { history: 1, max_bytes: 256 * 1024 * 1024 }));
}

/** Opens the bucket for a node, which may not make it. */
export async function openPolicyBucket(bus: Bus): Promise<PolicyBucket> {
  return adapt(await new Kvm(bus.jetstream).open(POLICY_BUCKET));
}
