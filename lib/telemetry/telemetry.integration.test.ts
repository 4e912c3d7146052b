import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { freePort } from "../bus/server.ts";

interface Span {
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly kind: number;
}

interface Export {
  readonly resourceSpans: readonly { readonly scopeSpans: readonly { readonly spans: readonly Span[] }[] }[];
}

/** A program that serves and calls itself, with telemetry on; it writes the headers that a bus message would carry. */
const program = (lib: string, directory: string) => `
import { createClient } from "@connectrpc/connect";
import { trace } from "@opentelemetry/api";
import { Health } from "#gen/grpc/health/v1/health_pb.ts";
import { Authority } from "${lib}/pki/authority.ts";
import { listenRpc } from "${lib}/rpc/server.ts";
import { createRpcClient } from "${lib}/rpc/client.ts";
import { ROLE_TABLE } from "${lib}/rpc/role-table.ts";
import { createLogger } from "${lib}/telemetry/log.ts";
import { startTelemetry } from "${lib}/telemetry/tracing.ts";
import { carriedTrace, traceHeaders } from "${lib}/bus/connection.ts";
const telemetry = await startTelemetry("test", process.env);
const authority = await Authority.open("${directory}/pki");
const credentials = await authority.credentials("service/test", ["127.0.0.1"]);
const server = await listenRpc({ host: "127.0.0.1", port: 0, credentials, roles: ROLE_TABLE, services: [], logger: createLogger("t", "error"), routes: () => {} });
const rpc = createRpcClient({ url: server.url, credentials, expects: "service/test" });
await trace.getTracer("test").startActiveSpan("outer", async (span) => {
  await createClient(Health, rpc.transport).check({});
  const carried = trace.getSpanContext(carriedTrace(traceHeaders()));
  console.log(JSON.stringify({ own: span.spanContext().traceId, carried: carried?.traceId }));
  span.end();
});
rpc[Symbol.dispose]();
await server[Symbol.asyncDispose]();
await telemetry[Symbol.asyncDispose]();
`;

test("one trace runs from the caller through the service, and over the bus", async () => {
  const exported: Export[] = [];
  const port = await freePort();
  const collector = createServer((request, response) => {
    let body = "";
    request.on("data", (chunk: Buffer) => {
      body += chunk;
    });
    request.on("end", () => {
      exported.push(JSON.parse(body) as Export);
      response.setHeader("content-type", "application/json").end("{}");
    });
  });
  await new Promise<void>((done) => collector.listen(port, "127.0.0.1", done));
  // Inside the project, so that its imports resolve.
  const directory = mkdtempSync(join(tmpdir(), "gabion-otel-"));
  const file = join(import.meta.dirname, `../../.cache/otel-${process.pid}.ts`);
  writeFileSync(file, program(join(import.meta.dirname, ".."), directory));
  const env = {
    ...process.env,
    OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`,
    OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
    OTEL_METRICS_EXPORTER: "none",
    OTEL_LOGS_EXPORTER: "none",
  };
  try {
    const child = spawn(process.execPath, [file], { env, stdio: ["ignore", "pipe", "inherit"] });
    let output = "";
    child.stdout.on("data", (chunk: Buffer) => {
      output += chunk;
    });
    expect(await new Promise((done) => child.once("close", done))).toBe(0);
    const { own, carried } = JSON.parse(output) as { own: string; carried: string };
    expect(carried).toBe(own);
    const spans = exported.flatMap((e) => e.resourceSpans.flatMap((r) => r.scopeSpans.flatMap((s) => s.spans)));
    const calls = spans
      .filter(({ name }) => name === "grpc.health.v1.Health/Check")
      .toSorted((a, b) => b.kind - a.kind);
    expect(calls.map(({ kind }) => kind)).toEqual([3, 2]); // client, then server, in OTLP's numbers
    expect(new Set([...calls.map(({ traceId }) => traceId), own]).size).toBe(1);
    expect(calls[1]?.parentSpanId).toBe(calls[0]?.spanId);
  } finally {
    collector.close();
    rmSync(file);
    rmSync(directory, { recursive: true, force: true });
  }
});
