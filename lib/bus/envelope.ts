import { create, type DescMessage, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { EnvelopeContentSchema, SignedEnvelopeSchema } from "#gen/gabion/bus/v1/envelope_pb.ts";
import type { SignatureCheck, Signer } from "../pki/signing.ts";

/** A message from the bus that must not be acted upon, and why. */
export class EnvelopeError extends Error {
  override readonly name = "EnvelopeError";
}

/** Clocks of two machines may differ by this much. */
const CLOCK_SLACK_MS = 60_000;

export interface SealOptions {
  /** What it is about; the receiver checks that it was found there. */
  readonly subject: string;
  /** Grows with every issue for the subject. */
  readonly revision: bigint;
  readonly nowMs: number;
  /** After this it has no effect. */
  readonly expiresMs?: number;
}

/** Signs a message for the bus. */
export function seal<Desc extends DescMessage>(
  signer: Signer,
  schema: Desc,
  message: MessageShape<Desc>,
  { subject, revision, nowMs, expiresMs }: SealOptions,
): Uint8Array {
  const content = toBinary(
    EnvelopeContentSchema,
    create(EnvelopeContentSchema, {
      issuer: signer.issuer,
      subject,
      revision,
      issueTime: timestampFromMs(nowMs),
      ...(expiresMs === undefined ? {} : { expireTime: timestampFromMs(expiresMs) }),
      payloadType: schema.typeName,
      payload: toBinary(schema, message),
    }),
  );
  const signature = signer.sign(content);
  return toBinary(SignedEnvelopeSchema, create(SignedEnvelopeSchema, { content, keyId: signer.keyId, signature }));
}

/** What an envelope must say to be acted upon. */
export interface OpenOptions {
  readonly check: SignatureCheck;
  /** The service that may give this kind of message. */
  readonly issuer: string;
  readonly subject: string;
  /** Highest revision applied so far for this subject; a lower one is refused. */
  readonly appliedRevision: bigint;
  readonly nowMs: number;
}

function decode<Desc extends DescMessage>(schema: Desc, bytes: Uint8Array): MessageShape<Desc> {
  try {
    return fromBinary(schema, bytes);
  } catch (cause) {
    throw new EnvelopeError(`not a ${schema.typeName}`, { cause });
  }
}

/**
 * Verifies an envelope and returns its message. Everything is checked before the payload is decoded: signature, issuer,
 * subject, type, age and revision.
 */
export function unseal<Desc extends DescMessage>(
  bytes: Uint8Array,
  schema: Desc,
  { check, issuer, subject, appliedRevision, nowMs }: OpenOptions,
): { readonly message: MessageShape<Desc>; readonly revision: bigint } {
  const { content, keyId, signature } = decode(SignedEnvelopeSchema, bytes);
  if (!check(issuer, keyId, content, signature)) {
    throw new EnvelopeError(`the signature of key \`${keyId}\` is not one of ${issuer}`);
  }
  const inner = decode(EnvelopeContentSchema, content);
  if (inner.issuer !== issuer) throw new EnvelopeError(`the issuer is \`${inner.issuer}\`, not ${issuer}`);
  if (inner.subject !== subject) throw new EnvelopeError(`the subject is \`${inner.subject}\`, not ${subject}`);
  if (inner.payloadType !== schema.typeName) throw new EnvelopeError(`the payload is a \`${inner.payloadType}\``);
  if (inner.revision < appliedRevision) {
    throw new EnvelopeError(`revision ${inner.revision} is older than ${appliedRevision}, which was applied already`);
  }
  if (inner.expireTime && timestampMs(inner.expireTime) < nowMs) throw new EnvelopeError("it has expired");
  if (inner.issueTime && timestampMs(inner.issueTime) > nowMs + CLOCK_SLACK_MS) {
    throw new EnvelopeError("it was issued in the future: check the clocks");
  }
  return { message: decode(schema, inner.payload), revision: inner.revision };
}
