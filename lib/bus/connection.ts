import { type JetStreamClient, type JetStreamManager, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect, headers, type MsgHdrs, type NatsConnection, nkeyAuthenticator } from "@nats-io/transport-node";
import type { Credentials } from "../pki/authority.ts";
import type { Logger } from "../telemetry/log.ts";
import { injectTrace } from "../telemetry/propagation.ts";

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
  readonly connection: NatsConnection;
  readonly jetstream: JetStreamClient;
  readonly manager: () => Promise<JetStreamManager>;
  readonly isConnected: () => boolean;
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

async function logStatus(connection: NatsConnection, logger: Logger): Promise<void> {
  for await (const status of connection.status()) {
    if (status.type === "disconnect" || status.type === "reconnect") logger.info({ type: status.type }, "nats");
    else if (status.type === "error") logger.warn({ err: status.error }, "nats");
  }
}

/**
 * Connects. Where no server answers yet the call returns all the same and goes on trying, so that processes may be
 * started in any order; what is published meanwhile fails and is to be repeated by its sender.
 */
export async function openBus({ servers, credentials, seed, name, logger }: BusOptions): Promise<Bus> {
  const connection = await connect({
    servers: [...servers],
    name,
    inboxPrefix: inboxPrefix(name),
    authenticator: nkeyAuthenticator(Buffer.from(seed)),
    tls: { ca: credentials.authority, cert: credentials.certificate, key: credentials.privateKey },
    maxReconnectAttempts: -1,
    reconnectTimeWait: 250,
    reconnectJitter: 250,
    waitOnFirstConnect: true,
    pingInterval: 10_000,
    maxPingOut: 2,
  });
  let isConnected = true;
  const watching = (async () => {
    for await (const status of connection.status()) {
      if (status.type === "disconnect") isConnected = false;
      if (status.type === "reconnect") isConnected = true;
    }
  })();
  void logStatus(connection, logger);
  return {
    connection,
    jetstream: jetstream(connection, { timeout: 5_000 }),
    manager: () => jetstreamManager(connection, { timeout: 5_000, checkAPI: false }),
    isConnected: () => isConnected && !connection.isClosed(),
    async [Symbol.asyncDispose]() {
      await connection.drain().catch(() => connection.close());
      await watching;
    },
  };
}
