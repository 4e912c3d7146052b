import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Credentials } from "./authority.ts";

/** A process lacks the files that prove who it is. */
export class MissingCredentialsError extends Error {
  override readonly name = "MissingCredentialsError";
}

/** Files of an identity in a folder of certificates and keys. */
function filesOf(directory: string, identity: string): Record<keyof Credentials, string> {
  const stem = join(directory, identity.replaceAll("/", "-"));
  return { certificate: `${stem}.cert.pem`, privateKey: `${stem}.key.pem`, authority: join(directory, "ca.cert.pem") };
}

/** Reads the credentials of an identity. Names every missing file, and how to make them. */
export function readCredentials(directory: string, identity: string): Credentials {
  const files = filesOf(directory, identity);
  const missing = Object.values(files).filter((file) => !existsSync(file));
  if (missing.length > 0) {
    throw new MissingCredentialsError(
      `no credentials for ${identity}: missing ${missing.join(", ")}; make them with \`gabion pki init\` or copy them here`,
    );
  }
  const read = (file: string) => readFileSync(file, "utf8");
  return { certificate: read(files.certificate), privateKey: read(files.privateKey), authority: read(files.authority) };
}
