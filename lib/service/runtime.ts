import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Bus, openBus } from "../bus/connection.ts";
import { systemClock, type Clock } from "../flow/clock.ts";
import { Authority, type Credentials } from "../pki/authority.ts";
import { openSigner, type Signer } from "../pki/signing.ts";
import { openStore } from "../store/open.ts";
import type { Migration, Store } from "../store/port.ts";
import { createLogger, type Logger } from "../telemetry/log.ts";
import { busSeed } from "./installation.ts";
import type { ServiceConfig, ServiceName } from "./settings.ts";

/** What a service stands on: made from its configuration by its `main.ts`, or from parts by tests. */
export interface ServiceRuntime {
  readonly logger: Logger;
  readonly clock: Clock;
  readonly credentials: Credentials;
  readonly signer: Signer;
  readonly store: Store;
  readonly bus: Bus;
}

/** Opens what a service stands on. Disposing the stack closes it in the opposite order. */
export async function openRuntime(
  name: ServiceName,
  config: ServiceConfig,
  migrations: readonly Migration[],
  stack: AsyncDisposableStack,
): Promise<ServiceRuntime> {
  const identity = `service/${name}`;
  const logger = createLogger(`${name}-service`, config["log.level"]);
  const authority = await Authority.open(config["pki.directory"]);
  const credentials = await authority.credentials(identity, serverNames(config["listen.host"]));
  const stored = { dataDirectory: config["data.directory"], mongodbUrl: config["mongodb.url"] };
  const store = stack.use(await openStore(stored, name, migrations));
  const bus = stack.use(
    await openBus({
      servers: config["nats.servers"].split(","),
      credentials,
      seed: busSeed(config["pki.directory"], identity),
      name: identity,
      logger,
    }),
  );
  return { logger, clock: systemClock, credentials, signer: openSigner(config["pki.directory"], identity), store, bus };
}

/** Names and addresses that a server's certificate is made out to. */
export function serverNames(host: string): string[] {
  return [...new Set(["localhost", "127.0.0.1", ...(host === "0.0.0.0" || host === "::" ? [] : [host])])];
}

/** Version of this Gabion, from its package. */
export function gabionVersion(): string {
  const text = readFileSync(join(import.meta.dirname, "../../package.json"), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}
