import { createSecureServer, type Http2SecureServer, type ServerHttp2Session } from "node:http2";
import type { AddressInfo } from "node:net";
import type { DescService } from "@bufbuild/protobuf";
import type { ConnectRouter, Interceptor } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { Health } from "#gen/grpc/health/v1/health_pb.ts";
import type { Credentials } from "../pki/authority.ts";
import type { Logger } from "../telemetry/log.ts";
import { registerHealth, type ServingState } from "./health.ts";
import { MAX_MESSAGE_BYTES } from "./limits.ts";
import { contextOf } from "./peer.ts";
import { registerReflection } from "./reflection.ts";
import { createRoleInterceptor, type RoleTable } from "./roles.ts";
import {
  createDeadlineInterceptor,
  createLogInterceptor,
  createValidationInterceptor,
  traceInterceptor,
} from "./server-interceptors.ts";

/** Longest deadline that a caller may ask for. */
const MAX_TIMEOUT_MS = 24 * 3_600_000;
/** Bound of unary calls without a deadline. */
const UNARY_TIMEOUT_MS = 30_000;
/** How long calls in hand may go on when the server ends. */
const DRAIN_MS = 5_000;
/** HTTP/2 windows: the default of 64 KiB caps a stream at 64 KiB per round trip. */
const STREAM_WINDOW = 4 * 1024 * 1024;
const SESSION_WINDOW = 8 * 1024 * 1024;
const MAX_STREAMS = 1_000;
/** A peer that does not answer a ping within this time is taken for gone. */
const KEEP_ALIVE_MS = 20_000;

export interface ServerOptions {
  readonly host: string;
  /** 0 for any free port. */
  readonly port: number;
  readonly credentials: Credentials;
  readonly roles: RoleTable;
  readonly services: readonly DescService[];
  readonly routes: (router: ConnectRouter) => void;
  readonly logger: Logger;
}

/** A server that answers gRPC, gRPC-Web and Connect on one port. */
export interface RpcServer extends AsyncDisposable {
  readonly port: number;
  readonly url: string;
}

/** The order of what stands before a handler, outermost first, each with its reason. */
function interceptors({ logger, roles }: ServerOptions): Interceptor[] {
  return [
    traceInterceptor, // first, so that refusals are seen in traces too
    createLogInterceptor(logger), // turns whatever is thrown below into what leaves the server
    createRoleInterceptor(roles), // before any work is done for the caller
    createDeadlineInterceptor(UNARY_TIMEOUT_MS), // bounds all that follows
    createValidationInterceptor(), // last, so that handlers see only what their proto allows
  ];
}

/** Ends a session whose peer has gone without a word: a host that lost power never closes its connections. */
function keepAlive(session: ServerHttp2Session): NodeJS.Timeout {
  let isAnswered = true;
  return setInterval(() => {
    if (session.destroyed) return;
    if (!isAnswered) {
      session.destroy();
      return;
    }
    isAnswered = false;
    session.ping((error) => {
      isAnswered = error === null;
    });
  }, KEEP_ALIVE_MS);
}

async function listening(server: Http2SecureServer, host: string, port: number): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  server.listen(port, host, resolve);
  await promise;
  server.off("error", reject);
  return (server.address() as AddressInfo).port;
}

/** Listens. Disposing says NOT_SERVING, lets calls in hand finish within a bound, ends streams and closes. */
export async function listenRpc(options: ServerOptions): Promise<RpcServer> {
  const { certificate, privateKey, authority } = options.credentials;
  const shutdown = new AbortController();
  const state: ServingState = { isServing: true };
  const handler = connectNodeAdapter({
    interceptors: interceptors(options),
    contextValues: contextOf,
    readMaxBytes: MAX_MESSAGE_BYTES,
    writeMaxBytes: MAX_MESSAGE_BYTES,
    maxTimeoutMs: MAX_TIMEOUT_MS,
    shutdownSignal: shutdown.signal,
    routes(router) {
      options.routes(router);
      registerHealth(
        router,
        options.services.map((s) => s.typeName),
        state,
      );
      registerReflection(router, [...options.services, Health]);
    },
  });
  const server = createSecureServer(
    {
      cert: certificate,
      key: privateKey,
      ca: authority,
      allowHTTP1: true,
      requestCert: true,
      rejectUnauthorized: false, // health is open to all; the role table refuses the rest
      minVersion: "TLSv1.3",
      settings: { initialWindowSize: STREAM_WINDOW, maxConcurrentStreams: MAX_STREAMS },
    },
    handler,
  );
  const sessions = new Set<ServerHttp2Session>();
  server.on("session", (session) => {
    session.setLocalWindowSize(SESSION_WINDOW);
    sessions.add(session);
    const alive = keepAlive(session);
    session.once("close", () => {
      clearInterval(alive);
      sessions.delete(session);
    });
  });
  server.on("tlsClientError", (error) => options.logger.debug({ err: error }, "tls handshake failed"));
  const port = await listening(server, options.host, options.port);
  return {
    port,
    url: `https://${options.host.includes(":") ? `[${options.host}]` : options.host}:${port}`,
    async [Symbol.asyncDispose]() {
      state.isServing = false;
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      shutdown.abort(new Error("the server is ending"));
      const timer = setTimeout(() => {
        for (const session of sessions) session.destroy();
      }, DRAIN_MS);
      for (const session of sessions) session.close();
      await closed;
      clearTimeout(timer);
    },
  };
}
