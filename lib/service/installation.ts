import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { createUser, fromSeed } from "@nats-io/nkeys";
import { type BusServerFiles, type BusUser, busServerConfig } from "../bus/server-config.ts";
import { Authority } from "../pki/authority.ts";
import { openSigner } from "../pki/signing.ts";
import { readBusSeed, seedFile, TRUST_FILE } from "./secrets.ts";

/** Services that speak on the bus, and whose signatures agents trust. */
const SERVICES = ["service/model", "service/rule", "service/intel", "service/audit"];

function ensureBusUser(directory: string, identity: string): BusUser {
  const file = seedFile(directory, identity);
  if (!existsSync(file)) writeFileSync(file, createUser().getSeed(), { mode: 0o600 });
  return { identity, publicKey: fromSeed(Buffer.from(readBusSeed(directory, identity))).getPublicKey() };
}

/** Nodes that were given bus keys before: they stay users of the bus. */
function knownNodes(directory: string): string[] {
  return readdirSync(directory).flatMap((file) => /^node-(.+)\.nkey$/.exec(file)?.[1] ?? []);
}

export interface InstallationOptions {
  readonly pkiDirectory: string;
  readonly natsDirectory: string;
  readonly natsHost: string;
  readonly natsPort: number;
  readonly nodeIds: readonly string[];
  /** Names and addresses that the servers are reached by, besides this machine's own. */
  readonly hosts?: readonly string[];
}

function serverNames(hosts: readonly string[]): string[] {
  return [...new Set(["localhost", "127.0.0.1", ...hosts])];
}

/**
 * Makes, once, all that an installation on one machine needs to trust its parts: authority, certificates, signing keys,
 * bus users. Returns the path of the NATS server's configuration.
 */
export async function prepareInstallation(options: InstallationOptions): Promise<string> {
  const { pkiDirectory, natsDirectory, natsHost, natsPort, nodeIds } = options;
  const authority = await Authority.open(pkiDirectory);
  for (const name of [...SERVICES, "service/nats"]) await authority.credentials(name, serverNames(options.hosts ?? []));
  for (const id of nodeIds) await authority.credentials(`node/${id}`);
  await authority.credentials("operator/local/admin");
  const trust = Object.fromEntries(SERVICES.map((name) => [name, [openSigner(pkiDirectory, name).publicKey]]));
  writeFileSync(join(pkiDirectory, TRUST_FILE), `${JSON.stringify(trust, null, 2)}\n`, { mode: 0o600 });
  mkdirSync(natsDirectory, { recursive: true, mode: 0o700 });
  const at = (name: string) => resolve(pkiDirectory, name);
  const files: BusServerFiles = {
    host: natsHost,
    port: natsPort,
    storeDirectory: resolve(natsDirectory, "jetstream"),
    certificateFile: at("service-nats.cert.pem"),
    keyFile: at("service-nats.key.pem"),
    authorityFile: at("ca.cert.pem"),
  };
  const nodes = new Set([...knownNodes(pkiDirectory), ...nodeIds]);
  const users = [...SERVICES, ...[...nodes].map((id) => `node/${id}`)].map((name) => ensureBusUser(pkiDirectory, name));
  const configFile = resolve(natsDirectory, "nats.conf");
  writeFileSync(configFile, busServerConfig(files, users), { mode: 0o600 });
  return configFile;
}
