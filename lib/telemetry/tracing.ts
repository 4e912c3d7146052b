import { NodeSDK } from "@opentelemetry/sdk-node";

/**
 * Starts OpenTelemetry. Where to export and how to sample is told by the standard `OTEL_…` variables; without
 * `OTEL_EXPORTER_OTLP_ENDPOINT` nothing is exported and spans cost next to nothing.
 */
export function startTelemetry(serviceName: string, env: NodeJS.ProcessEnv): AsyncDisposable {
  if (env["OTEL_EXPORTER_OTLP_ENDPOINT"] === undefined && env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] === undefined) {
    return { [Symbol.asyncDispose]: async () => {} };
  }
  const sdk = new NodeSDK({ serviceName, instrumentations: [] });
  sdk.start();
  return { [Symbol.asyncDispose]: () => sdk.shutdown() };
}
