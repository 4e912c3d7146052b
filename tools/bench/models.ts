/**
 * model-service under load, as a process of its own with the embedded store and a real bus: what it takes in durably, and how
 * it answers with many models in it. MODELS sets how many there are, each with 300 items.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { create } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { type Client, createClient } from "@connectrpc/connect";
import { factId } from "#core/model/fact.ts";
import { modelKey } from "#core/model/key.ts";
import { ContentState, Section } from "#gen/gabion/event/v1/event_pb.ts";
import { type Fact, FactSchema } from "#gen/gabion/model/v1/model_pb.ts";
import { ModelService, type ObserveRequest, ObserveRequestSchema } from "#gen/gabion/model/v1/model_service_pb.ts";
import {
  type Container,
  ContainerSchema,
  DigestSource,
  ModelScopeSchema,
} from "#gen/gabion/workload/v1/workload_pb.ts";
import { freePort, startBusServer } from "#lib/bus/server.ts";
import { readCredentials } from "#lib/pki/credentials.ts";
import { createRpcClient } from "#lib/rpc/client.ts";
import { prepareInstallation } from "#lib/service/installation.ts";
import { createLogger } from "#lib/telemetry/log.ts";
import { until } from "../demo/until.ts";
import { percentile, printTable } from "./statistics.ts";

const MODELS = Number(process.env["MODELS"] ?? 2_000);
const ITEMS = 300;
const RUN = "11111111-1111-4111-8111-111111111111";
const SECTIONS = [Section.PROCESS, Section.NETWORK, Section.DNS, Section.FILESYSTEM, Section.SYSCALL];
/** Batches that wait for their acknowledgement. */
const WINDOW = 16;
const ROOT = resolve(import.meta.dirname, "../..");

const directory = mkdtempSync(join(tmpdir(), "gabion-models-"));
await using stack = new AsyncDisposableStack();
stack.defer(() => rmSync(directory, { recursive: true, force: true }));
const pki = join(directory, "pki");
const natsPort = await freePort();
const nats = await prepareInstallation({
  pkiDirectory: pki,
  natsDirectory: join(directory, "nats"),
  natsHost: "127.0.0.1",
  natsPort,
  nodeIds: ["bench"],
});
stack.use(await startBusServer("/usr/sbin/nats-server", nats, createLogger("bench", "error")));
const port = await freePort();

async function startService(): Promise<{ process: ChildProcess; seconds: number }> {
  const settings = [
    `data.directory=${directory}`,
    `pki.directory=${pki}`,
    `listen.port=${port}`,
    `nats.servers=127.0.0.1:${natsPort}`,
  ];
  const begin = performance.now();
  const child = spawn(
    process.execPath,
    [join(ROOT, "services/model/main.ts"), ...settings.flatMap((s) => ["--set", s])],
    {
      stdio: ["ignore", "ignore", "pipe"],
    },
  );
  let said = "";
  child.stderr.on("data", (chunk: Buffer) => (said = (said + chunk.toString()).slice(-2_000)));
  await until("model-service to listen", 60_000, () => said.includes("listens on") || undefined);
  return { process: child, seconds: (performance.now() - begin) / 1_000 };
}

function clientOf(identity: string): Client<typeof ModelService> {
  const credentials = readCredentials(pki, identity);
  const rpc = stack.use(createRpcClient({ url: `https://127.0.0.1:${port}`, credentials, expects: "service/model" }));
  return createClient(ModelService, rpc.transport);
}

function containerOf(i: number): Container {
  const scope = create(ModelScopeSchema, { imageDigest: `sha256:${i.toString(16).padStart(64, "0")}` });
  return create(ContainerSchema, {
    containerId: `c${i}`,
    nodeId: "bench",
    modelKey: modelKey(scope),
    modelScope: scope,
    image: {
      name: `registry.example/team-${i % 50}/app-${i}:1`,
      digest: scope.imageDigest,
      digestSource: DigestSource.RUNTIME,
    },
  });
}

/** What models of servers are made of: programs, folders, names, calls. */
function factOf(i: number): Fact {
  const kinds = [
    { case: "process", value: { path: `/usr/bin/tool-${i}`, name: `tool-${i}`, contentState: ContentState.UNCHANGED } },
    { case: "domain", value: { name: `host-${i}.service-${i}.example${i}.com`, recordType: 1 } },
    { case: "file", value: { path: `/usr/share/app/part-${i}`, processPath: "/usr/bin/app" } },
    { case: "syscall", value: { name: `call_${i}` } },
  ] as const;
  return create(FactSchema, { kind: kinds[i % 4] as never });
}

const FACTS = Array.from({ length: ITEMS }, (_, i) => factOf(i));

/**
 * Sends batches over one stream, a window of them at a time; answers how long those of each phase took to be durable. One
 * stream for all: an agent that begins anew has the containers that it does not name ended.
 */
async function observe(
  client: Client<typeof ModelService>,
  phases: readonly Iterable<Partial<ObserveRequest>>[],
): Promise<number[]> {
  let acknowledged = 0;
  let wake = Promise.withResolvers<void>();
  let sent = 0;
  const seconds: number[] = [];
  async function* requests() {
    yield create(ObserveRequestSchema, { hello: { nodeId: "bench", agentRunId: RUN, protocolVersion: 1 } });
    for (const batches of phases) {
      const begin = performance.now();
      for (const batch of batches) {
        while (sent - acknowledged >= WINDOW) await wake.promise;
        sent += 1;
        yield create(ObserveRequestSchema, { ...batch, sequence: BigInt(sent) } as never);
      }
      while (acknowledged < sent) await wake.promise;
      seconds.push((performance.now() - begin) / 1_000);
    }
  }
  for await (const { acknowledgedSequence } of client.observe(requests())) {
    acknowledged = Math.max(acknowledged, Number(acknowledgedSequence));
    wake.resolve();
    wake = Promise.withResolvers<void>();
  }
  return seconds;
}

function rssMiB({ pid }: ChildProcess): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) / 1_024;
}

async function timed(count: number, call: (i: number) => Promise<unknown>): Promise<string[]> {
  const samples: number[] = [];
  for (let i = 0; i < count; i += 1) {
    const begin = performance.now();
    await call(i);
    samples.push(performance.now() - begin);
  }
  return [percentile(samples, 0.5).toFixed(1), percentile(samples, 0.99).toFixed(1)];
}

let service = await startService();
stack.defer(() => void service.process.kill("SIGKILL"));
const node = clientOf("node/bench");
const operator = clientOf("operator/local/admin");
const containers = Array.from({ length: MODELS }, (_, i) => containerOf(i));
const rate = (count: number, seconds: number) => Math.round(count / seconds).toLocaleString("en");

const ensured = await (async () => {
  const begin = performance.now();
  const left = containers.values();
  await Promise.all(
    Array.from({ length: WINDOW }, async () => {
      for (const container of left) await node.ensureModel({ container, sections: SECTIONS });
    }),
  );
  return (performance.now() - begin) / 1_000;
})();
/** Made while they are sent: all of them would not fit into memory. */
function* learning(): Iterable<Partial<ObserveRequest>> {
  for (const { modelKey: key, containerId } of containers)
    yield { facts: FACTS.map((fact) => ({ modelKey: key, fact, containerId })) } as never;
}
const ids = FACTS.map(factId);
const seen = Array.from({ length: 1_000 }, (_, i) => containers[(i * 7) % MODELS] as Container).map(
  ({ modelKey: key, containerId }) => ({
    seenUnits: SECTIONS.map((section) => ({
      modelKey: key,
      containerId,
      section,
      unitIndex: 1n,
      itemIds: ids,
      counts: ids.map(() => 1),
      isFirst: ids.map(() => true),
      isFirstPart: true,
    })),
    presenceSpans: SECTIONS.map((section) => ({
      modelKey: key,
      containerId,
      section,
      attached: durationFromMs(1_000),
    })),
  }),
);
const [learned = 0, counted = 0] = await observe(node, [learning(), seen as never]);

printTable(`what model-service takes in durably (${MODELS} models of ${ITEMS} items, ${WINDOW} batches in flight)`, [
  ["", "a second"],
  ["models made", rate(MODELS, ensured)],
  ["new facts learned, with their history", rate(MODELS * ITEMS, learned)],
  ["known facts counted", rate(seen.length * ITEMS, counted)],
]);

const keyOf = (i: number) => containers[(i * 31) % MODELS]?.modelKey ?? "";
const abort = new AbortController();
let watched = Promise.withResolvers<void>();
let wanted = "";
let shown = 0;
const watchBegin = performance.now();
void (async () => {
  for await (const { model } of operator.watchModels({ omitItems: true }, { signal: abort.signal })) {
    shown += 1;
    if (model?.modelKey === wanted) watched.resolve();
  }
})().catch(() => {});
await until("all models to be shown to the watcher", 600_000, () => shown >= MODELS || undefined);
const watchSeconds = (performance.now() - watchBegin) / 1_000;
const calls: [string, string[]][] = [
  ["list 100 without items", await timed(50, () => operator.listModels({ pageSize: 100, omitItems: true }))],
  [
    "list 100 by time of change",
    await timed(50, () => operator.listModels({ pageSize: 100, omitItems: true, orderBy: "update_time desc" })),
  ],
  ["get with all items", await timed(200, (i) => operator.getModel({ modelKey: keyOf(i) }))],
  [
    "change to watcher",
    await timed(100, async (i) => {
      wanted = keyOf(i);
      watched = Promise.withResolvers();
      await operator.startManualLearning({ modelKey: wanted });
      await watched.promise;
    }),
  ],
  ["history, first 100", await timed(100, (i) => operator.listModelHistory({ modelKey: keyOf(i) }))],
];
abort.abort();
printTable("calls, ms", [["", "p50", "p99"], ...calls.map(([name, cells]) => [name, ...cells])]);
const { document } = await operator.exportModel({ modelKey: keyOf(1) });
const before = rssMiB(service.process);
const ended = new Promise((done) => service.process.once("exit", done));
service.process.kill("SIGTERM");
await ended;
service = await startService();
printTable("the service with that many models", [
  [
    "a new watcher has seen all, s",
    "memory after the load, MiB",
    "memory after a restart, MiB",
    "start, s",
    "store on disk, MiB",
    "an exported model, KiB",
  ],
  [
    watchSeconds.toFixed(1),
    before.toFixed(0),
    rssMiB(service.process).toFixed(0),
    service.seconds.toFixed(1),
    (statSync(join(directory, "model.sqlite")).size / 2 ** 20).toFixed(0),
    (document.length / 1_024).toFixed(0),
  ],
]);
service.process.kill("SIGTERM");
