import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Verdict, VerdictAction, VerdictSchema } from "#gen/gabion/audit/v1/verdict_pb.ts";
import { AppliedRevisions } from "../../agent/policy/applied-revisions.ts";
import { VerdictSource } from "../../agent/policy/verdict-source.ts";
import { missing } from "../../test/requirements.ts";
import { until } from "../../tools/demo/until.ts";
import { ManualClock, systemClock } from "../flow/clock.ts";
import { readCredentials } from "../pki/credentials.ts";
import { createSignatureCheck, openSigner } from "../pki/signing.ts";
import { prepareInstallation } from "../service/installation.ts";
import { readBusSeed, readTrust } from "../service/secrets.ts";
import { createLogger } from "../telemetry/log.ts";
import { type Bus, openBus } from "./connection.ts";
import { seal } from "./envelope.ts";
import { HeadPublisher, headOf } from "./head-publisher.ts";
import { ensurePolicyBucket } from "./policy-bucket.ts";
import { type BusServer, freePort, startBusServer } from "./server.ts";
import { POLICY_SUBJECTS, policyKey, verdictSubject } from "./topology.ts";

const reason = missing("nats");
const onBus = test.skipIf(reason !== "");
const directory = mkdtempSync(join(tmpdir(), "gabion-bus-"));
const pki = join(directory, "pki");
const logger = createLogger("test", "fatal");
let config: string;
let port: number;
let server: BusServer;
const buses: Bus[] = [];

async function signIn(identity: string): Promise<Bus> {
  const bus = openBus({
    servers: [`127.0.0.1:${port}`],
    credentials: readCredentials(pki, identity),
    seed: readBusSeed(pki, identity),
    name: identity,
    logger,
  });
  buses.push(bus);
  await until(`${identity} to sign in`, 10_000, () => bus.connection().catch(() => undefined));
  return bus;
}

beforeAll(async () => {
  if (reason !== "") return;
  port = await freePort();
  const nats = { natsDirectory: join(directory, "nats"), natsHost: "127.0.0.1", natsPort: port };
  config = await prepareInstallation({ pkiDirectory: pki, ...nats, nodeIds: ["n1", "n2"] });
  server = await startBusServer("/usr/sbin/nats-server", config, logger);
});

afterAll(async () => {
  for (const bus of buses) await bus[Symbol.asyncDispose]();
  await server?.[Symbol.asyncDispose]();
  rmSync(directory, { recursive: true, force: true });
});

function verdictFor(nodeId: string, deadlineMs = Date.now() + 60_000): Verdict {
  return create(VerdictSchema, {
    verdictId: `v-${Math.random()}`,
    nodeId,
    action: VerdictAction.STOP_CONTAINER,
    containerId: "c1",
    reason: "test",
    deadlineTime: timestampFromMs(deadlineMs),
  });
}

/** What a client is refused, by what the server says of it. */
async function refusals(bus: Bus, act: () => Promise<unknown> | unknown): Promise<string[]> {
  const connection = await bus.connection();
  const told: string[] = [];
  const status = connection.status();
  void (async () => {
    for await (const event of status) if (event.type === "error") told.push(event.error.message);
  })();
  await Promise.resolve(act()).catch(() => {});
  await connection.flush();
  await until("the server's word", 5_000, () => (told.length > 0 ? true : undefined)).catch(() => {});
  return told;
}

onBus(
  "a node says nothing on the bus: no verdict, no policy, and no request whose answer could go anywhere",
  async () => {
    const node = await signIn("node/n1");
    const connection = await node.connection();
    const audit = await signIn("service/audit");
    const heard: string[] = [];
    const bucket = await ensurePolicyBucket(await signIn("service/rule"));
    await bucket.put("ruleset.current", Buffer.from("genuine"));
    const subjects = [verdictSubject("n1"), verdictSubject("n2"), "$KV.gabion_policy.ruleset.current", "$JS.API.INFO"];
    for (const subject of subjects) {
      const told = await refusals(node, () =>
        connection.publish(subject, Buffer.from("forged"), { reply: "$KV.gabion_policy.ruleset.current" }),
      );
      expect(told.join(), subject).toMatch(/permissions violation/i);
    }
    expect(await refusals(node, () => void connection.subscribe(verdictSubject("n2")))).toHaveLength(1);
    expect(Buffer.from((await bucket.get("ruleset.current")) ?? []).toString()).toBe("genuine");
    // It hears what it is meant to hear.
    const messages = connection.subscribe(POLICY_SUBJECTS, {
      callback: (_, message) => void heard.push(policyKey(message.subject)),
    });
    await connection.flush();
    await bucket.put("ruleset.current", Buffer.from("next"));
    await until("the change", 5_000, () => (heard.length > 0 ? true : undefined));
    expect(heard).toEqual(["ruleset.current"]);
    messages.unsubscribe();
    expect(await audit.connection()).toBeDefined();
  },
);

onBus("a service may not publish what another service owns", async () => {
  const model = await signIn("service/model");
  const connection = await model.connection();
  for (const subject of [verdictSubject("n1"), "$KV.gabion_policy.ruleset.current"]) {
    expect((await refusals(model, () => connection.publish(subject, Buffer.from("x")))).join()).toMatch(
      /permissions violation/i,
    );
  }
});

onBus("a verdict is carried out once; forged, foreign, replayed and late ones are not", async () => {
  const audit = await signIn("service/audit");
  const signer = openSigner(pki, "service/audit");
  const carriedOut: string[] = [];
  const applied = new AppliedRevisions(join(directory, "applied.json"));
  await using _ = new VerdictSource({
    bus: await signIn("node/n1"),
    nodeId: "n1",
    check: createSignatureCheck(readTrust(pki)),
    applied,
    clock: systemClock,
    logger,
    onVerdict: async (verdict) => void carriedOut.push(verdict.verdictId),
  });
  const connection = await audit.connection();
  const send = (verdict: Verdict, by = signer, subject = verdictSubject("n1")) =>
    connection.publish(
      verdictSubject("n1"),
      seal(by, VerdictSchema, verdict, { subject, revision: 1n, nowMs: Date.now() }),
    );
  const first = verdictFor("n1");
  await until("the first verdict", 20_000, () => {
    send(first);
    return carriedOut.includes(first.verdictId) || undefined;
  });
  const good = verdictFor("n1");
  send(verdictFor("n1"), openSigner(join(directory, "forger"), "service/audit"));
  send(verdictFor("n1"), openSigner(pki, "service/rule"));
  send(verdictFor("n2"), signer, verdictSubject("n2"));
  send(verdictFor("n1", Date.now() - 1_000));
  send(good);
  send(good);
  const last = verdictFor("n1");
  // Sent again until it is heard, as audit-service does.
  await until("the last verdict", 20_000, () => {
    send(last);
    return carriedOut.includes(last.verdictId) || undefined;
  });
  expect(carriedOut).toEqual([first.verdictId, good.verdictId, last.verdictId]);
  expect(new AppliedRevisions(join(directory, "applied.json")).hasVerdict(good.verdictId)).toBe(true);
});

onBus(
  "heads that were lost with the bus or written by somebody else are put right; those that stand there are left",
  async () => {
    const rule = await signIn("service/rule");
    const clock = new ManualClock(Date.now());
    const heads = Array.from({ length: 5 }, (_, i) =>
      headOf({ key: `ruleset.part-${i}`, revision: BigInt(10 + i), body: Buffer.from(`body ${i}`) }),
    );
    const puts: string[] = [];
    const counted = async () => {
      const bucket = await ensurePolicyBucket(rule);
      const put = (key: string, envelope: Uint8Array) => {
        puts.push(key);
        return bucket.put(key, envelope);
      };
      return { ...bucket, put };
    };
    const signer = openSigner(pki, "service/rule");
    const all = async function* () {
      yield* heads;
    };
    using publisher = new HeadPublisher({ bucket: counted, signer, clock, logger, all });
    await publisher.reconcile();
    expect(puts).toEqual(heads.map(({ key }) => key));
    puts.length = 0;
    await publisher.reconcile();
    expect(puts).toEqual([]);
    const bucket = await ensurePolicyBucket(rule);
    await bucket.put("ruleset.part-1", Buffer.from("somebody else's"));
    await bucket.remove("ruleset.part-3");
    await publisher.reconcile();
    expect(puts).toEqual(["ruleset.part-1", "ruleset.part-3"]);
    puts.length = 0;
    await server[Symbol.asyncDispose]();
    rmSync(join(directory, "nats", "jetstream"), { recursive: true });
    server = await startBusServer("/usr/sbin/nats-server", config, logger);
    await until("the heads to be back", 20_000, async () => {
      await publisher.reconcile();
      return puts.length >= heads.length || undefined;
    });

    expect(puts).toEqual(heads.map(({ key }) => key));
  },
);

onBus("what could not be published while the server was away is published afterwards", async () => {
  const rule = await signIn("service/rule");
  await using _ = await signIn("node/n2");
  const heads = [headOf({ key: "ruleset.current", revision: 3n, body: Buffer.from("body") })];
  const signer = openSigner(pki, "service/rule");
  using publisher = new HeadPublisher({
    bucket: () => ensurePolicyBucket(rule),
    signer,
    clock: systemClock,
    logger,
    all: async function* () {
      yield* heads;
    },
  });
  await server[Symbol.asyncDispose]();
  publisher.publish(heads[0] as (typeof heads)[0]);
  server = await startBusServer("/usr/sbin/nats-server", config, logger);
  const found = await until("the head on the bus", 30_000, async () => {
    const envelope = await ensurePolicyBucket(rule)
      .then((bucket) => bucket.get("ruleset.current"))
      .catch(() => undefined);
    return envelope && envelope.length > 100 ? envelope : undefined;
  });
  expect(found.length).toBeGreaterThan(100);
});
