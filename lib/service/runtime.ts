import { type Bus, openBus } from "../bus/connection.ts";
import { type Clock, systemClock } from "../flow/clock.ts";
import type { Credentials } from "../pki/authority.ts";
import { readCredentials } from "../pki/credentials.ts";
import { openSigner, type Signer } from "../pki/signing.ts";
import { openStore } from "../store/open.ts";
import type { Migration, Store } from "../store/port.ts";
import { createLogger, type Logger } from "../telemetry/log.ts";
import { readBusSeed } from "./secrets.ts";
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
  const credentials = readCredentials(config["pki.directory"], identity);
  const stored = { dataDirectory: config["data.directory"], mongodbUrl: config["mongodb.url"] };
  const store = stack.use(await openStore(stored, name, migrations));
  const bus = stack.use(
    openBus({
      servers: config["nats.servers"].split(","),
      credentials,
      seed: readBusSeed(config["pki.directory"], identity),
      name: identity,
      logger,
    }),
  );
  return { logger, clock: systemClock, credentials, signer: openSigner(config["pki.directory"], identity), store, bus };
}
