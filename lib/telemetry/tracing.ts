/**
 * Starts OpenTelemetry. Where to export and how to sample is told by the standard `OTEL_…` variables; without
 * `OTEL_EXPORTER_OTLP_ENDPOINT` nothing is exported and spans cost next to nothing.
 */
export async function startTelemetry(serviceName: string, env: NodeJS.ProcessEnv): Promise<AsyncDisposable> {
  if (env["OTEL_EXPORTER_OTLP_ENDPOINT"] === undefined && env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] === undefined) {
    return { [Symbol.asyncDispose]: async () => {} };
  }
  // Loaded only where it is wanted: it is the larger part of a small process.
  const { NodeSDK } = await import("@opentelemetry/sdk-node");
  const sdk = new NodeSDK({ serviceName, instrumentations: [] });
  sdk.start();
  return { [Symbol.asyncDispose]: () => sdk.shutdown() };
}
