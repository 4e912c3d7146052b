/**
 * Who a peer is. Identities are paths such as `service/model`, `node/worker-3` and `operator/ann/admin`, carried in the
 * certificate as a SPIFFE-style URI.
 */
export type Identity =
  | { readonly kind: "service"; readonly name: string }
  | { readonly kind: "node"; readonly name: string }
  | { readonly kind: "operator"; readonly name: string; readonly role: OperatorRole }
  | { readonly kind: "anonymous" };

/** Roles of operators; each may do what those before it may. */
export const OPERATOR_ROLES = ["viewer", "operator", "admin"] as const;
export type OperatorRole = (typeof OPERATOR_ROLES)[number];

const TRUST_DOMAIN = "spiffe://gabion/";

/** The URI that stands for an identity in a certificate. */
export function identityUri(identity: string): string {
  return `${TRUST_DOMAIN}${identity}`;
}

/** The identity as text, as it stands in histories and logs. */
export function identityText(identity: Identity): string {
  return identity.kind === "anonymous" ? "anonymous" : `${identity.kind}/${identity.name}`;
}

/** Reads an identity; undefined where the text is none. */
export function parseIdentity(text: string): Identity | undefined {
  const [kind, name = "", role] = text.split("/");
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name)) return undefined;
  if (kind === "service" || kind === "node") return role === undefined ? { kind, name } : undefined;
  const known = OPERATOR_ROLES.find((r) => r === role);
  return kind === "operator" && known !== undefined ? { kind, name, role: known } : undefined;
}

/** The identity in the `subjectaltname` text that Node gives for a certificate. */
export function identityOfSubjectAltName(text: string | undefined): Identity | undefined {
  const uri = (text ?? "").split(", ").find((part) => part.startsWith(`URI:${TRUST_DOMAIN}`));
  return uri === undefined ? undefined : parseIdentity(uri.slice(4 + TRUST_DOMAIN.length));
}
