import type { IncomingMessage } from "node:http";
import type { Http2ServerRequest } from "node:http2";
import type { TLSSocket } from "node:tls";
import { type ContextValues, createContextKey, createContextValues } from "@connectrpc/connect";
import { type Identity, identityOfSubjectAltName } from "../pki/identity.ts";

/** Who makes the call, by the client certificate; anonymous without one. */
export const peerKey = createContextKey<Identity>({ kind: "anonymous" }, { description: "identity of the caller" });

/** Context of a call with the identity that TLS has proved. */
export function contextOf(request: IncomingMessage | Http2ServerRequest): ContextValues {
  const values = createContextValues();
  const session = "stream" in request ? request.stream.session : undefined;
  const socket = (session ? session.socket : request.socket) as TLSSocket;
  if (socket?.authorized !== true) return values;
  const identity = identityOfSubjectAltName(socket.getPeerCertificate().subjectaltname);
  return identity === undefined ? values : values.set(peerKey, identity);
}
