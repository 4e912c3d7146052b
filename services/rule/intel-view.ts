import { fromBinary } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { compileIntel, type Intel, NO_INTEL, withoutExpired } from "#core/intel/intel-set.ts";
import { IntelSetSchema } from "#gen/gabion/intel/v1/intel_pb.ts";
import { IntelService } from "#gen/gabion/intel/v1/intel_service_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";
import type { RpcClient } from "#lib/rpc/client.ts";
import { said } from "./fleet-view.ts";

/** What rule-service asks intel-service for: what nodes know to be bad. */
export type IntelView = () => Promise<Intel>;

/** Asks intel-service by RPC; a set that is known already is not sent again. */
export function createIntelView({ transport }: RpcClient, clock: Clock): IntelView {
  const client = createClient(IntelService, transport);
  let known = NO_INTEL;
  return async () => {
    const { intelSet } = await client
      .getIntelSet({ knownRevision: known.revision })
      .catch((error) => said("intel", error));
    known =
      intelSet.length > 0
        ? compileIntel(fromBinary(IntelSetSchema, intelSet), clock.now())
        : withoutExpired(known, clock.now());
    return known;
  };
}
