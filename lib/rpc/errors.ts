import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema } from "#gen/google/rpc/error_details_pb.ts";

/** One fault of a request. */
export interface FieldFault {
  /** Path of the field, for example `rule.process.denied[2]`. */
  readonly field: string;
  readonly message: string;
}

/** Something a caller can act on. Services throw these; everything else leaves a server as "internal error". */
export class RpcFault extends Error {
  override readonly name = "RpcFault";
  readonly code: Code;
  /** Cause in UPPER_SNAKE_CASE, for programs. */
  readonly reason: string;
  readonly fields: readonly FieldFault[];

  constructor(code: Code, reason: string, message: string, fields: readonly FieldFault[] = []) {
    super(message);
    this.code = code;
    this.reason = reason;
    this.fields = fields;
  }
}

/** There is no such thing. */
export function notFound(what: string, name: string): RpcFault {
  return new RpcFault(Code.NotFound, "NOT_FOUND", `there is no ${what} \`${name}\``);
}

/** The caller's copy is old: it must read again and decide anew. */
export function staleEtag(what: string): RpcFault {
  return new RpcFault(
    Code.Aborted,
    "STALE_ETAG",
    `the ${what} was changed since it was read: read it again and repeat`,
  );
}

/** The request is refused whole, with every fault. */
export function invalidRequest(fields: readonly FieldFault[]): RpcFault {
  const text = fields.map(({ field, message }) => `${field}: ${message}`).join("; ");
  return new RpcFault(Code.InvalidArgument, "INVALID_REQUEST", text, fields);
}

/** Brings whatever was thrown into the form that leaves the server. */
export function toConnectError(error: unknown): ConnectError {
  if (error instanceof ConnectError) return error;
  if (!(error instanceof RpcFault))
    return new ConnectError("internal error", Code.Internal, undefined, undefined, error);
  const { reason, fields } = error;
  const info = { desc: ErrorInfoSchema, value: create(ErrorInfoSchema, { reason, domain: "gabion" }) };
  const fieldViolations = fields.map(({ field, message }) => ({ field, description: message }));
  const request = { desc: BadRequestSchema, value: create(BadRequestSchema, { fieldViolations }) };
  return new ConnectError(error.message, error.code, undefined, fields.length > 0 ? [info, request] : [info], error);
}
