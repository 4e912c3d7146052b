import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { request as httpsRequest } from "node:https";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { credentials as grpcCredentials, loadPackageDefinition } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { afterAll, beforeAll, expect, test } from "vitest";
import { IndicatorType, Verdict } from "#gen/gabion/intel/v1/intel_pb.ts";
import { IntelService } from "#gen/gabion/intel/v1/intel_service_pb.ts";
import { BadRequestSchema, ErrorInfoSchema } from "#gen/google/rpc/error_details_pb.ts";
import { Health, HealthCheckResponse_ServingStatus as Status } from "#gen/grpc/health/v1/health_pb.ts";
import { INTEL_SETS, IntelSets } from "../../services/intel/intel-set.ts";
import { INDICATORS, registerIntelService } from "../../services/intel/service.ts";
import { systemClock } from "../flow/clock.ts";
import { Authority, type Credentials } from "../pki/authority.ts";
import type { Store } from "../store/port.ts";
import { openSqliteStore } from "../store/sqlite.ts";
import { createLogger } from "../telemetry/log.ts";
import { createRpcClient } from "./client.ts";
import { ROLE_TABLE } from "./role-table.ts";
import { listenRpc, type RpcServer } from "./server.ts";

const run = promisify(execFile);
const ROOT = resolve(import.meta.dirname, "../..");
const directory = mkdtempSync(join(tmpdir(), "gabion-rpc-"));
let store: Store;
let server: RpcServer;
let admin: Credentials;
let viewer: Credentials;
let node: Credentials;
let stranger: Credentials;

beforeAll(async () => {
  const authority = await Authority.open(join(directory, "pki"));
  const own = await authority.credentials("service/intel", ["localhost", "127.0.0.1"]);
  admin = await authority.credentials("operator/ann/admin");
  viewer = await authority.credentials("operator/vic/viewer");
  node = await authority.credentials("node/n1");
  const other = await Authority.open(join(directory, "other"));
  stranger = { ...(await other.credentials("operator/eve/admin")), authority: authority.certificatePem };
  store = await openSqliteStore(join(directory, "intel.sqlite"));
  const indicators = await store.collection(INDICATORS);
  const sets = await store.collection(INTEL_SETS);
  const intelSets = new IntelSets({ indicators, sets, clock: systemClock, publish: () => {} });
  server = await listenRpc({
    host: "127.0.0.1",
    port: 0,
    credentials: own,
    roles: ROLE_TABLE,
    services: [IntelService],
    logger: createLogger("test", "error"),
    routes: (router) => registerIntelService(router, { indicators, intelSets, clock: systemClock }),
  });
});

afterAll(async () => {
  await server[Symbol.asyncDispose]();
  await store[Symbol.asyncDispose]();
  rmSync(directory, { recursive: true, force: true });
});

function tls(credentials: Credentials) {
  return { ca: credentials.authority, cert: credentials.certificate, key: credentials.privateKey };
}

async function failure(call: Promise<unknown>): Promise<ConnectError> {
  return call.then(
    () => Promise.reject(new Error("did not fail")),
    (error: unknown) => ConnectError.from(error),
  );
}

test("Connect, gRPC over HTTP/2 and gRPC-Web over HTTP/1.1 are answered on one port", async () => {
  using rpc = createRpcClient({ url: server.url, credentials: admin, expects: "service/intel" });
  const baseUrl = server.url;
  const transports = [
    rpc.transport,
    createGrpcTransport({ baseUrl, nodeOptions: tls(admin) }),
    createGrpcWebTransport({ baseUrl, httpVersion: "1.1", nodeOptions: tls(admin) }),
  ];
  for (const transport of transports) {
    const client = createClient(IntelService, transport);
    await client.putIndicators({
      indicators: [{ type: IndicatorType.DOMAIN, value: "evil.example", verdict: Verdict.BAD }],
    });
    expect(await client.lookUpIndicator({ object: "a.b.evil.example" })).toMatchObject({ isBad: true });
    expect(await client.lookUpIndicator({ object: "good.example" })).toMatchObject({ isBad: false });
  }
});

test("a client of @grpc/grpc-js is answered, health included", async () => {
  const includeDirs = [join(ROOT, "proto"), join(ROOT, ".cache/validate")];
  const files = ["gabion/intel/v1/intel_service.proto", "grpc/health/v1/health.proto"];
  // biome-ignore lint/suspicious/noExplicitAny: proto-loader's clients have no types of their own
  const packages = loadPackageDefinition(loadSync(files, { includeDirs })) as any;
  const channel = grpcCredentials.createSsl(
    Buffer.from(admin.authority),
    Buffer.from(admin.privateKey),
    Buffer.from(admin.certificate),
  );
  const intel = new packages.gabion.intel.v1.IntelService(`localhost:${server.port}`, channel);
  const answer = await promisify(intel.LookUpIndicator.bind(intel))({ object: "a.b.evil.example" });
  expect(answer).toMatchObject({ isBad: true });
  const health = new packages.grpc.health.v1.Health(`localhost:${server.port}`, channel);
  expect(await promisify(health.Check.bind(health))({ service: "gabion.intel.v1.IntelService" })).toEqual({
    status: Status.SERVING,
  });
  await expect(promisify(health.Check.bind(health))({ service: "none" })).rejects.toMatchObject({
    code: Code.NotFound,
  });
  intel.close();
  health.close();
});

test("buf curl finds methods by reflection", async () => {
  const pki = join(directory, "pki");
  const args = [
    "curl",
    "--protocol",
    "grpc",
    "--cacert",
    `${pki}/ca.cert.pem`,
    "--cert",
    `${pki}/operator-ann-admin.cert.pem`,
  ];
  const key = ["--key", `${pki}/operator-ann-admin.key.pem`];
  const url = `https://localhost:${server.port}`;
  const env = { ...process.env, PATH: `${join(ROOT, "node_modules/.bin")}:${process.env["PATH"]}` };
  const options = { env, cwd: directory };
  const listed = await run("buf", [...args, ...key, "--list-methods", url], options);
  expect(listed.stdout).toContain("gabion.intel.v1.IntelService/LookUpIndicator");
  const called = await run(
    "buf",
    [...args, ...key, "-d", '{"object":"x.evil.example"}', `${url}/gabion.intel.v1.IntelService/LookUpIndicator`],
    options,
  );
  expect(JSON.parse(called.stdout)).toMatchObject({ isBad: true });
});

test("roles decide who may call what", async () => {
  const put = { indicators: [{ type: IndicatorType.DOMAIN, value: "x.example", verdict: Verdict.BAD }] };
  const call = async (credentials: Credentials, change: boolean) => {
    using rpc = createRpcClient({ url: server.url, credentials, expects: "service/intel" });
    const client = createClient(IntelService, rpc.transport);
    if (change) await client.putIndicators(put);
    else await client.lookUpIndicator({ object: "x.example" });
  };
  await call(viewer, false);
  await call(node, false);
  expect((await failure(call(viewer, true))).code).toBe(Code.PermissionDenied);
  expect((await failure(call(node, true))).rawMessage).toMatch(/node\/n1 may not call/);
});

test("a caller without a certificate may ask for health only", async () => {
  const transport = createGrpcTransport({ baseUrl: server.url, nodeOptions: { ca: admin.authority } });
  expect(await createClient(Health, transport).check({})).toMatchObject({ status: Status.SERVING });
  const refused = await failure(createClient(IntelService, transport).lookUpIndicator({ object: "x.example" }));
  expect(refused.code).toBe(Code.Unauthenticated);
});

test("a certificate of another authority opens nothing", async () => {
  const transport = createGrpcTransport({ baseUrl: server.url, nodeOptions: tls(stranger) });
  const refused = await failure(createClient(IntelService, transport).lookUpIndicator({ object: "x.example" }));
  expect([Code.Unauthenticated, Code.Canceled, Code.Unavailable]).toContain(refused.code);
});

test("a server that is not the expected service is refused by the client", async () => {
  using rpc = createRpcClient({ url: server.url, credentials: admin, expects: "service/model" });
  const refused = await failure(createClient(IntelService, rpc.transport).lookUpIndicator({ object: "x.example" }));
  expect(refused.rawMessage).toMatch(/service\/intel, not service\/model/);
});

test("a request that breaks its rules is refused with every fault in the details", async () => {
  using rpc = createRpcClient({ url: server.url, credentials: admin, expects: "service/intel" });
  const client = createClient(IntelService, rpc.transport);
  const bad = await failure(
    client.putIndicators({ indicators: [{ type: IndicatorType.UNSPECIFIED, value: "", verdict: Verdict.BAD }] }),
  );
  expect(bad.code).toBe(Code.InvalidArgument);
  const fields = bad.findDetails(BadRequestSchema).flatMap((d) => d.fieldViolations.map(({ field }) => field));
  expect(fields).toEqual(["indicators[0].type", "indicators[0].value"]);
  expect(bad.findDetails(ErrorInfoSchema)[0]).toMatchObject({ reason: "INVALID_REQUEST", domain: "gabion" });
  const semantic = await failure(
    client.putIndicators({ indicators: [{ type: IndicatorType.PREFIX, value: "1.2.3.4/99", verdict: Verdict.BAD }] }),
  );
  expect(semantic.rawMessage).toMatch(/indicators\[0\]\.value.*prefix length must be 0 to 32/);
});

test("a message above the limit is refused", async () => {
  using rpc = createRpcClient({ url: server.url, credentials: admin, expects: "service/intel" });
  const client = createClient(IntelService, rpc.transport);
  const description = "x".repeat(5 * 1024 * 1024);
  const big = { type: IndicatorType.DOMAIN, value: "x.example", verdict: Verdict.BAD, sources: [{ description }] };
  expect((await failure(client.putIndicators({ indicators: [big] }))).code).toBe(Code.ResourceExhausted);
});

test("bytes that are no message are refused and the server goes on", async () => {
  const status = await new Promise<number | undefined>((done, fail) => {
    const call = httpsRequest(
      `${server.url}/gabion.intel.v1.IntelService/LookUpIndicator`,
      { method: "POST", headers: { "content-type": "application/proto" }, ...tls(admin) },
      (response) => done(response.resume().statusCode),
    );
    call.once("error", fail);
    call.end(Buffer.from([0xff, 0xff, 0xff, 0x00, 0x07]));
  });
  // Connect calls what cannot be parsed an internal error; it says so and nothing of ours was reached.
  expect(status).toBe(500);
  using rpc = createRpcClient({ url: server.url, credentials: admin, expects: "service/intel" });
  await createClient(IntelService, rpc.transport).lookUpIndicator({ object: "x.example" });
});

test("a stale etag is refused", async () => {
  using rpc = createRpcClient({ url: server.url, credentials: admin, expects: "service/intel" });
  const client = createClient(IntelService, rpc.transport);
  const wanted = { type: IndicatorType.DOMAIN, value: "etag.example", verdict: Verdict.BAD };
  const { indicators } = await client.putIndicators({ indicators: [wanted] });
  await client.putIndicators({ indicators: [wanted] });
  const stale = await failure(client.putIndicators({ indicators: [{ ...wanted, etag: indicators[0]?.etag ?? "" }] }));
  expect(stale.code).toBe(Code.Aborted);
});
