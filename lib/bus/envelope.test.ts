import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { VerdictSchema } from "#gen/gabion/audit/v1/verdict_pb.ts";
import { BodyHeadSchema, SignedEnvelopeSchema } from "#gen/gabion/bus/v1/envelope_pb.ts";
import { createSignatureCheck, openSigner } from "../pki/signing.ts";
import { seal, unseal } from "./envelope.ts";

const directory = mkdtempSync(join(tmpdir(), "gabion-keys-"));
const rule = openSigner(directory, "service/rule");
const audit = openSigner(directory, "service/audit");
const check = createSignatureCheck({ "service/rule": [rule.publicKey], "service/audit": [audit.publicKey] });
const head = create(BodyHeadSchema, { revision: 7n, digest: "a".repeat(64), size: 1n });
const nowMs = 1_700_000_000_000;
const good = { check, issuer: "service/rule", subject: "ruleset.current", appliedRevision: 5n, nowMs };

function sealed(more: Partial<Parameters<typeof seal>[3]> = {}, signer = rule): Uint8Array {
  return seal(signer, BodyHeadSchema, head, { subject: "ruleset.current", revision: 7n, nowMs, ...more });
}

test("what a service signs its receiver opens", () => {
  expect(unseal(sealed(), BodyHeadSchema, good)).toMatchObject({ revision: 7n, message: { digest: "a".repeat(64) } });
});

test.each([
  ["an older revision than was applied", sealed({ revision: 4n }), {}, /older than 5/],
  ["another subject", sealed({ subject: "models.x" }), {}, /subject is `models.x`/],
  ["another service's key", sealed({}, audit), {}, /not one of service\/rule/],
  ["an end that has passed", sealed({ expiresMs: nowMs - 1 }), {}, /expired/],
  ["a date in the future", sealed({ nowMs: nowMs + 3_600_000 }), {}, /future/],
  ["bytes that are no envelope", Buffer.from("hello"), {}, /not a gabion.bus.v1.SignedEnvelope|signature/],
])("%s is refused", (_, bytes, more, message) => {
  expect(() => unseal(bytes, BodyHeadSchema, { ...good, ...more })).toThrow(message);
});

test("a changed content is refused", () => {
  const envelope = fromBinary(SignedEnvelopeSchema, sealed());
  envelope.content = envelope.content.map((byte, at) => (at === 30 ? byte ^ 1 : byte));
  expect(() => unseal(toBinary(SignedEnvelopeSchema, envelope), BodyHeadSchema, good)).toThrow(/signature/);
});

test("a message of another type is refused", () => {
  expect(() => unseal(sealed(), VerdictSchema, good)).toThrow(/payload is a `gabion.bus.v1.BodyHead`/);
});
