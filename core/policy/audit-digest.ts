import { createHash } from "node:crypto";
import { clone, toBinary } from "@bufbuild/protobuf";
import { type Audit, AuditSchema } from "#gen/gabion/audit/v1/audit_pb.ts";

/**
 * What the next audit of an agent run carries as `previous_digest`: SHA-256 over the audit as the agent sent it, without
 * the fields that the service sets.
 */
export function auditDigest(audit: Audit): Uint8Array {
  const sent = clone(AuditSchema, audit);
  sent.auditId = "";
  delete sent.receiveTime;
  return createHash("sha256").update(toBinary(AuditSchema, sent)).digest();
}
