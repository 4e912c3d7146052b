import type { PeerCertificate } from "node:tls";
import type { Interceptor, Transport } from "@connectrpc/connect";
import { createConnectTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { context, SpanKind, trace } from "@opentelemetry/api";
import type { Credentials } from "../pki/authority.ts";
import { identityOfSubjectAltName, identityText } from "../pki/identity.ts";
import { injectTrace } from "../telemetry/propagation.ts";
import { MAX_MESSAGE_BYTES } from "./limits.ts";

/** Deadline of unary calls where the caller gives none. */
const DEFAULT_TIMEOUT_MS = 15_000;

export interface ClientOptions {
  readonly url: string;
  readonly credentials: Credentials;
  /** Service that must answer, for example `service/model`: any certificate of the authority would not do. */
  readonly expects: string;
}

/** A connection to one service over HTTP/2, with the trace of the caller. */
export interface RpcClient extends Disposable {
  readonly transport: Transport;
  /** Drops the connection; the next call makes another. For a peer that does not answer any more. */
  readonly reset: () => void;
}

const traceClientInterceptor: Interceptor = (next) => (request) => {
  const name = `${request.service.typeName}/${request.method.name}`;
  return trace.getTracer("gabion/rpc").startActiveSpan(name, { kind: SpanKind.CLIENT }, async (span) => {
    try {
      injectTrace(request.header);
      return await context.with(trace.setSpan(context.active(), span), () => next(request));
    } finally {
      span.end();
    }
  });
};

/** Unary calls get a deadline; a stream lives as long as its caller wants. */
const deadlineInterceptor: Interceptor = (next) => (request) => {
  if (request.stream) return next(request);
  const signal = AbortSignal.any([request.signal, AbortSignal.timeout(DEFAULT_TIMEOUT_MS)]);
  return next({ ...request, signal });
};

function checkPeer(expects: string, certificate: PeerCertificate): Error | undefined {
  const identity = identityOfSubjectAltName(certificate.subjectaltname);
  const found = identity === undefined ? "nobody known" : identityText(identity);
  return found === expects ? undefined : new Error(`the server is ${found}, not ${expects}`);
}

/** A client for one service. The connection is made at the first call and again whenever it is lost. */
export function createRpcClient({ url, credentials, expects }: ClientOptions): RpcClient {
  const { certificate, privateKey, authority } = credentials;
  const sessionManager = new Http2SessionManager(
    url,
    // No pings from this side: connect-node 2.2.0 pings destroyed sessions, which throws out of a timer and ends the
    // process. The server pings, and streams watch for acknowledgements that do not come.
    {},
    {
      ca: authority,
      cert: certificate,
      key: privateKey,
      checkServerIdentity: (_host: string, cert: PeerCertificate) => checkPeer(expects, cert),
      settings: { initialWindowSize: 4 * 1024 * 1024 },
    },
  );
  const transport = createConnectTransport({
    baseUrl: url,
    httpVersion: "2",
    sessionManager,
    interceptors: [traceClientInterceptor, deadlineInterceptor],
    readMaxBytes: MAX_MESSAGE_BYTES,
    writeMaxBytes: MAX_MESSAGE_BYTES,
  });
  const reset = () => sessionManager.abort();
  return { transport, reset, [Symbol.dispose]: reset };
}
