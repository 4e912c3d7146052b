import { type JetStreamClient, jetstream } from "@nats-io/jetstream";
import { connect, headers, type MsgHdrs, type NatsConnection, nkeyAuthenticator } from "@nats-io/transport-node";
import { type Context, context } from "@opentelemetry/api";
import { aborted, repeatUntilAborted } from "../flow/retry.ts";
import type { Credentials } from "../pki/authority.ts";
import type { Logger } from "../telemetry/log.ts";
import { extractTrace, injectTrace } from "../telemetry/propagation.ts";

export interface BusOptions {
  readonly servers: readonly string[];
  readonly credentials: Credentials;
  /** Nkey seed of this service or node. */
  readonly seed: string;
  /** Name shown by the server, and root of this client's inboxes. */
  readonly name: string;
  readonly logger: Logger;
}

/** A connection to NATS that comes back by itself. Disposing drains it. */
export interface Bus extends AsyncDisposable {
  /** The connection; fails after a second where no server has answered yet. */
  readonly connection: () => Promise<NatsConnection>;
  readonly jetstream: () => Promise<JetStreamClient>;
}

/** Inboxes are below a name of the client's own, so that permissions can be given for them alone. */
export function inboxPrefix(name: string): string {
  return `_INBOX_${name.replace(/[^A-Za-z0-9]/g, "_")}`;
}

/** Headers that carry the current trace. */
export function traceHeaders(): MsgHdrs {
  const carrier = headers();
  injectTrace(carrier);
  return carrier;
}

/** The trace that a message carries, for the work that it causes. */
export function carriedTrace(carrier: MsgHdrs | undefined): Context {
  return carrier ? extractTrace(carrier) : context.active();
}

const READY_MS = 1_000;
const REQUEST_MS = 5_000;

async function logStatus(connection: NatsConnection, logger: Logger): Promise<void> {
  for await (const status of connection.status()) {
    if (status.type === "disconnect" || status.type === "reconnect") logger.info({ type: status.type }, "nats");
    else if (status.type === "error") logger.warn({ err: status.error }, "nats");
  }
}

function connectOnce({ servers, credentials, seed, name }: BusOptions): Promise<NatsConnection> {
  return connect({
    servers: [...servers],
    name,
    inboxPrefix: inboxPrefix(name),
    authenticator: nkeyAuthenticator(Buffer.from(seed)),
    tls: { ca: credentials.authority, cert: credentials.certificate, key: credentials.privateKey },
    timeout: 5_000,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 250,
    reconnectJitter: 250,
    pingInterval: 10_000,
    maxPingOut: 2,
  });
}

/**
 * Connects in the background. Where no server answers yet it goes on trying, so that processes may be started in any
 * order and a node enforces what it knows without the bus.
 */
export function openBus(options: BusOptions): Bus {
  const { logger } = options;
  const abort = new AbortController();
  const first = Promise.withResolvers<NatsConnection>();
  first.promise.catch(() => {});
  let isToldOfFailure = false;
  const connecting = repeatUntilAborted(
    async (signal) => {
      const connection = await connectOnce(options);
      void logStatus(connection, logger);
      first.resolve(connection);
      await aborted(signal);
      await connection.drain().catch(() => connection.close());
    },
    {
      signal: abort.signal,
      backoff: { firstMs: 250, maxMs: 2_000 },
      onFailure: (err) => {
        if (!isToldOfFailure) logger.warn({ err }, "no NATS server answers; trying again");
        isToldOfFailure = true;
      },
    },
  );
  const connection = async (): Promise<NatsConnection> => {
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(() => late.reject(new Error("no NATS server has answered yet")), READY_MS);
    return Promise.race([first.promise, late.promise]).finally(() => clearTimeout(timer));
  };
  return {
    connection,
    jetstream: async () => jetstream(await connection(), { timeout: REQUEST_MS }),
    async [Symbol.asyncDispose]() {
      abort.abort(new Error("the process is ending"));
      first.reject(new Error("the process is ending"));
      await connecting;
    },
  };
}
