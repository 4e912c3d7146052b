import "reflect-metadata";
import { createHash, randomBytes, webcrypto } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as x509 from "@peculiar/x509";
import { identityUri } from "./identity.ts";

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const DAY_MS = 86_400_000;
const CA_DAYS = 3650;
const LEAF_DAYS = 365;
const SERVER_AUTH = "1.3.6.1.5.5.7.3.1";
const CLIENT_AUTH = "1.3.6.1.5.5.7.3.2";

/** Certificate, key and authority of one process, as PEM. */
export interface Credentials {
  readonly certificate: string;
  readonly privateKey: string;
  readonly authority: string;
}

function toPem(label: string, der: ArrayBuffer): string {
  const lines =
    Buffer.from(der)
      .toString("base64")
      .match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join("\n")}\n-----END ${label}-----\n`;
}

function fromPem(pem: string): Buffer {
  return Buffer.from(pem.replace(/-----[^-]+-----|\s/g, ""), "base64");
}

function serialNumber(): string {
  const bytes = randomBytes(16);
  bytes[0] = (bytes[0] as number) & 0x7f;
  return bytes.toString("hex");
}

function writeSecret(path: string, text: string): void {
  writeFileSync(path, text, { mode: 0o600, flag: "w" });
}

async function privateKeyPem(keys: webcrypto.CryptoKeyPair): Promise<string> {
  return toPem("PRIVATE KEY", await webcrypto.subtle.exportKey("pkcs8", keys.privateKey));
}

/**
 * The local certificate authority of an installation without one of its own. It lives in a folder that only its owner
 * reads, and is made at first use.
 */
export class Authority {
  readonly #directory: string;
  readonly #certificate: x509.X509Certificate;
  readonly #key: webcrypto.CryptoKey;

  private constructor(directory: string, certificate: x509.X509Certificate, key: webcrypto.CryptoKey) {
    this.#directory = directory;
    this.#certificate = certificate;
    this.#key = key;
  }

  /** Opens the authority in a folder, making it where there is none. */
  static async open(directory: string): Promise<Authority> {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    if (!existsSync(join(directory, "ca.key.pem"))) await Authority.#make(directory);
    const key = await webcrypto.subtle.importKey(
      "pkcs8",
      fromPem(readFileSync(join(directory, "ca.key.pem"), "utf8")),
      ALGORITHM,
      false,
      ["sign"],
    );
    return new Authority(
      directory,
      new x509.X509Certificate(readFileSync(join(directory, "ca.cert.pem"), "utf8")),
      key,
    );
  }

  static async #make(directory: string): Promise<void> {
    const keys = (await webcrypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"])) as webcrypto.CryptoKeyPair;
    const now = Date.now();
    const certificate = await x509.X509CertificateGenerator.createSelfSigned({
      serialNumber: serialNumber(),
      name: "CN=Gabion local authority",
      notBefore: new Date(now - DAY_MS),
      notAfter: new Date(now + CA_DAYS * DAY_MS),
      signingAlgorithm: ALGORITHM,
      keys,
      extensions: [
        new x509.BasicConstraintsExtension(true, 0, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
        await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      ],
    });
    writeSecret(join(directory, "ca.cert.pem"), `${certificate.toString("pem")}\n`);
    writeSecret(join(directory, "ca.key.pem"), await privateKeyPem(keys));
  }

  get certificatePem(): string {
    return `${this.#certificate.toString("pem")}\n`;
  }

  /**
   * Credentials for an identity, made at first use and kept beside the authority. `hosts` are names and addresses that
   * a server answers to; without them the certificate is for clients only.
   */
  async credentials(identity: string, hosts: readonly string[] = []): Promise<Credentials> {
    const stem = join(this.#directory, identity.replaceAll("/", "-"));
    if (!this.#isUsable(`${stem}.cert.pem`)) await this.#issue(identity, hosts, stem);
    return {
      certificate: readFileSync(`${stem}.cert.pem`, "utf8"),
      privateKey: readFileSync(`${stem}.key.pem`, "utf8"),
      authority: this.certificatePem,
    };
  }

  /** A certificate that ends within a month, or comes from another authority, is made anew. */
  #isUsable(path: string): boolean {
    if (!existsSync(path)) return false;
    const certificate = new x509.X509Certificate(readFileSync(path, "utf8"));
    return (
      certificate.issuer === this.#certificate.subject && certificate.notAfter.getTime() > Date.now() + 30 * DAY_MS
    );
  }

  async #issue(identity: string, hosts: readonly string[], stem: string): Promise<void> {
    const keys = (await webcrypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"])) as webcrypto.CryptoKeyPair;
    const now = Date.now();
    const names: x509.JsonGeneralNames = [
      { type: "url", value: identityUri(identity) },
      ...hosts.map((host) => ({ type: /^[\d.]+$|:/.test(host) ? "ip" : "dns", value: host }) as const),
    ];
    const usages = hosts.length > 0 ? [SERVER_AUTH, CLIENT_AUTH] : [CLIENT_AUTH];
    const certificate = await x509.X509CertificateGenerator.create({
      serialNumber: serialNumber(),
      subject: `CN=${identity.replaceAll("/", " ")}`,
      issuer: this.#certificate.subject,
      notBefore: new Date(now - DAY_MS),
      notAfter: new Date(now + LEAF_DAYS * DAY_MS),
      signingAlgorithm: ALGORITHM,
      publicKey: keys.publicKey,
      signingKey: this.#key,
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension(usages, false),
        new x509.SubjectAlternativeNameExtension(names, false),
      ],
    });
    writeSecret(`${stem}.key.pem`, await privateKeyPem(keys));
    writeSecret(`${stem}.cert.pem`, `${certificate.toString("pem")}\n`);
  }
}

/** Short name of a public key: the first 16 hex digits of SHA-256 over its raw bytes. */
export function keyId(rawPublicKey: Uint8Array): string {
  return createHash("sha256").update(rawPublicKey).digest("hex").slice(0, 16);
}
