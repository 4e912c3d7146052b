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
import { systemClock } from "../flow/clock.ts";
import { readCredentials } from "../pki/credentials.ts";
import { createSignatureCheck, openSigner } from "../pki/signing.ts";
import { prepareInstallation, readBusSeed, readTrust } from "../service/installation.ts";
import { createLogger } from "../telemetry/log.ts";
import { type Bus, openBus } from "./connection.ts";
import { seal } from "./envelope.ts";
import { HeadPublisher } from "./head-publisher.ts";
import { ensurePolicyBucket, openPolicyBucket } from "./policy-bucket.ts";
import { type BusServer, freePort, startBusServer } from "./server.ts";
import { ensureVerdictConsumer, ensureVerdictStream, verdictSubject } from "./topology.ts";

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
  const bus = await openBus({
    servers: [`127.0.0.1:${port}`],
    credentials: readCredentials(pki, identity),
    seed: readBusSeed(pki, identity),
    name: identity,
    logger,
  });
  buses.push(bus);
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

onBus("a node may neither give verdicts nor change policy, nor read another node's verdicts", async () => {
  const node = await signIn("node/n1");
  const audit = await signIn("service/audit");
  await ensureVerdictStream(await audit.manager());
  await ensureVerdictConsumer(await audit.manager(), "n1");
  await ensureVerdictConsumer(await audit.manager(), "n2");
  const rule = await signIn("service/rule");
  const bucket = await ensurePolicyBucket(rule);
  await bucket.put("ruleset.current", Buffer.from("signed elsewhere"));
  await expect(node.jetstream.publish(verdictSubject("n1"), Buffer.from("x"), { timeout: 1_000 })).rejects.toThrow();
  const asNode = await openPolicyBucket(node);
  expect(Buffer.from((await asNode.get("ruleset.current")) ?? []).toString()).toBe("signed elsewhere");
  await expect(asNode.put("ruleset.current", Buffer.from("forged"))).rejects.toThrow();
  expect(Buffer.from((await bucket.get("ruleset.current")) ?? []).toString()).toBe("signed elsewhere");
  await expect(node.jetstream.consumers.get("gabion_verdicts", "node-n2")).rejects.toThrow();
});

onBus("a service may not publish what another service owns", async () => {
  const model = await signIn("service/model");
  await expect(model.jetstream.publish(verdictSubject("n1"), Buffer.from("x"), { timeout: 1_000 })).rejects.toThrow();
  const bucket = await ensurePolicyBucket(model);
  await expect(bucket.put("ruleset.current", Buffer.from("forged"))).rejects.toThrow();
});

onBus("a verdict is carried out once; forged, foreign, replayed and late ones are not", async () => {
  const audit = await signIn("service/audit");
  await ensureVerdictStream(await audit.manager());
  await ensureVerdictConsumer(await audit.manager(), "n1");
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
  const send = (verdict: Verdict, by = signer, subject = verdictSubject("n1")) =>
    audit.jetstream.publish(
      verdictSubject("n1"),
      seal(by, VerdictSchema, verdict, { subject, revision: 1n, nowMs: Date.now() }),
    );
  const good = verdictFor("n1");
  await send(verdictFor("n1"), openSigner(join(directory, "forger"), "service/audit"));
  await send(verdictFor("n1"), openSigner(pki, "service/rule"));
  await send(verdictFor("n2"), signer, verdictSubject("n2"));
  await send(verdictFor("n1", Date.now() - 1_000));
  await send(good);
  await send(good);
  const last = verdictFor("n1");
  await send(last);
  await until("the last verdict", 20_000, () => carriedOut.includes(last.verdictId) || undefined);
  expect(carriedOut).toEqual([good.verdictId, last.verdictId]);
  expect(new AppliedRevisions(join(directory, "applied.json")).hasVerdict(good.verdictId)).toBe(true);
});

onBus("what could not be published while the server was away is published afterwards", async () => {
  const rule = await signIn("service/rule");
  await using _ = await signIn("node/n2");
  const bodies = [{ key: "ruleset.current", revision: 3n, body: Buffer.from("body") }];
  const signer = openSigner(pki, "service/rule");
  using publisher = new HeadPublisher({
    bucket: () => ensurePolicyBucket(rule),
    signer,
    clock: systemClock,
    logger,
    all: async function* () {
      yield* bodies;
    },
  });
  await server[Symbol.asyncDispose]();
  await publisher.publish(bodies[0] as (typeof bodies)[0]);
  server = await startBusServer("/usr/sbin/nats-server", config, logger);
  const found = await until("the head on the bus", 30_000, async () => {
    const envelope = await ensurePolicyBucket(rule)
      .then((bucket) => bucket.get("ruleset.current"))
      .catch(() => undefined);
    return envelope && envelope.length > 100 ? envelope : undefined;
  });
  expect(found.length).toBeGreaterThan(100);
});
