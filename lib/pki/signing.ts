import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign, verify } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { keyId } from "./authority.ts";

/** Bytes that precede what is signed, so that a signature for one purpose is none for another. */
const DOMAIN = Buffer.from("gabion-envelope-v1\0");

function rawPublicKey(key: KeyObject): Buffer {
  return Buffer.from(key.export({ format: "jwk" }).x as string, "base64url");
}

/** Signs for one issuer with Ed25519. */
export interface Signer {
  readonly issuer: string;
  readonly keyId: string;
  readonly publicKey: string;
  readonly sign: (content: Uint8Array) => Uint8Array;
}

/** Opens the signing key of an issuer, making it at first use. */
export function openSigner(directory: string, issuer: string): Signer {
  const path = join(directory, `${issuer.replaceAll("/", "-")}.signing.pem`);
  if (!existsSync(path)) {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    const { privateKey } = generateKeyPairSync("ed25519");
    writeFileSync(path, privateKey.export({ type: "pkcs8", format: "pem" }), { mode: 0o600 });
  }
  const privateKey = createPrivateKey(readFileSync(path));
  const raw = rawPublicKey(createPublicKey(privateKey));
  return {
    issuer,
    keyId: keyId(raw),
    publicKey: raw.toString("base64url"),
    sign: (content) => sign(null, Buffer.concat([DOMAIN, content]), privateKey),
  };
}

/** Public keys by issuer, base64url; several while one is being replaced. */
export type TrustBundle = Readonly<Record<string, readonly string[]>>;

/** Says whether a signature is an issuer's. */
export type SignatureCheck = (issuer: string, keyId: string, content: Uint8Array, signature: Uint8Array) => boolean;

/** Compiles a trust bundle. */
export function createSignatureCheck(bundle: TrustBundle): SignatureCheck {
  const keys = new Map<string, KeyObject>();
  for (const [issuer, publicKeys] of Object.entries(bundle)) {
    for (const x of publicKeys) {
      const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
      keys.set(`${issuer} ${keyId(Buffer.from(x, "base64url"))}`, key);
    }
  }
  return (issuer, id, content, signature) => {
    const key = keys.get(`${issuer} ${id}`);
    return key !== undefined && verify(null, Buffer.concat([DOMAIN, content]), key, signature);
  };
}
