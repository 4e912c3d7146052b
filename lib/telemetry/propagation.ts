import { type Context, context, propagation } from "@opentelemetry/api";

/** Headers of any transport: RPC and NATS both fit. */
export interface HeaderCarrier {
  readonly get: (name: string) => string | null | undefined;
  readonly set: (name: string, value: string) => void;
}

/** Writes the current trace into headers. */
export function injectTrace(headers: HeaderCarrier): void {
  propagation.inject(context.active(), headers, { set: (carrier, name, value) => carrier.set(name, value) });
}

/** The trace that headers carry, on top of the current context. */
export function extractTrace(headers: HeaderCarrier): Context {
  return propagation.extract(context.active(), headers, {
    get: (carrier, name) => carrier.get(name) || undefined,
    keys: () => ["traceparent", "tracestate", "baggage"],
  });
}
