import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { MissingCredentialsError } from "../pki/credentials.ts";
import type { TrustBundle } from "../pki/signing.ts";

/** File of an identity's bus key. */
export function seedFile(directory: string, identity: string): string {
  return join(directory, `${identity.replaceAll("/", "-")}.nkey`);
}

/** Nkey seed with which an identity signs in to the bus. */
export function readBusSeed(directory: string, identity: string): string {
  const file = seedFile(directory, identity);
  if (!existsSync(file)) throw new MissingCredentialsError(`no bus key for ${identity}: missing ${file}`);
  return readFileSync(file, "utf8").trim();
}

/** File of the keys that agents trust. */
export const TRUST_FILE = "trust.json";

/** Keys that agents trust for each service. */
export function readTrust(directory: string): TrustBundle {
  return JSON.parse(readFileSync(join(directory, TRUST_FILE), "utf8")) as TrustBundle;
}
