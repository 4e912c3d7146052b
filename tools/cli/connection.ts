import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import type { DescService } from "@bufbuild/protobuf";
import { type Client, createClient } from "@connectrpc/connect";
import { AuditService } from "#gen/gabion/audit/v1/audit_service_pb.ts";
import { FleetService } from "#gen/gabion/fleet/v1/fleet_service_pb.ts";
import { IntelService } from "#gen/gabion/intel/v1/intel_service_pb.ts";
import { ModelService } from "#gen/gabion/model/v1/model_service_pb.ts";
import { RuleService } from "#gen/gabion/rule/v1/rule_service_pb.ts";
import { readCredentials } from "#lib/pki/credentials.ts";
import { createRpcClient } from "#lib/rpc/client.ts";

/** Something that the user can put right; shown without a stack. */
export class CommandError extends Error {
  override readonly name = "CommandError";
}

/** Clients for all services, as an operator. */
export interface Connection extends Disposable {
  readonly models: Client<typeof ModelService>;
  readonly fleet: Client<typeof FleetService>;
  readonly rules: Client<typeof RuleService>;
  readonly intel: Client<typeof IntelService>;
  readonly audits: Client<typeof AuditService>;
}

export interface ConnectionOptions {
  /** Data folder of an installation on this machine. */
  readonly data: string;
  /** Operator that calls, as its certificate says, for example `operator/local/admin`. */
  readonly operator: string;
}

type Endpoints = Record<"model" | "rule" | "intel" | "audit", string>;

function readEndpoints(data: string): Endpoints {
  const file = join(data, "endpoints.json");
  if (!existsSync(file)) {
    throw new CommandError(`no installation at ${data}: start one with \`npm start\`, or name its folder with --data`);
  }
  return JSON.parse(readFileSync(file, "utf8")) as Endpoints;
}

/** Connects to an installation as an operator. */
export function connect({ data, operator }: ConnectionOptions): Connection {
  const directory = resolve(data);
  const endpoints = readEndpoints(directory);
  const credentials = readCredentials(join(directory, "pki"), operator);
  const stack = new DisposableStack();
  const client = <S extends DescService>(service: S, name: keyof Endpoints): Client<S> => {
    const rpc = stack.use(createRpcClient({ url: endpoints[name], credentials, expects: `service/${name}` }));
    return createClient(service, rpc.transport);
  };
  return {
    models: client(ModelService, "model"),
    fleet: client(FleetService, "model"),
    rules: client(RuleService, "rule"),
    intel: client(IntelService, "intel"),
    audits: client(AuditService, "audit"),
    [Symbol.dispose]: () => stack.dispose(),
  };
}
