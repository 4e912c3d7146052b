import { setTimeout as sleep } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, type ConnectRouter } from "@connectrpc/connect";
import {
  Health,
  type HealthCheckResponse,
  HealthCheckResponseSchema,
  HealthCheckResponse_ServingStatus as Status,
} from "#gen/grpc/health/v1/health_pb.ts";

/** Says whether a service answers; waits for a change. */
export interface ServingState {
  isServing: boolean;
}

const WATCH_INTERVAL_MS = 1_000;

function answer(status: Status): HealthCheckResponse {
  return create(HealthCheckResponseSchema, { status });
}

/** The standard health service for the named services and, under the empty name, the whole server. */
export function registerHealth(router: ConnectRouter, names: readonly string[], state: ServingState): void {
  const known = new Set(["", ...names]);
  const status = () => answer(state.isServing ? Status.SERVING : Status.NOT_SERVING);
  router.service(Health, {
    check({ service }) {
      if (!known.has(service)) throw new ConnectError(`there is no service \`${service}\` here`, Code.NotFound);
      return status();
    },
    async *watch({ service }, { signal }) {
      if (!known.has(service)) {
        yield answer(Status.SERVICE_UNKNOWN);
        return;
      }
      let last: Status | undefined;
      while (!signal.aborted) {
        const now = status();
        if (now.status !== last) yield now;
        last = now.status;
        await sleep(WATCH_INTERVAL_MS, undefined, { signal }).catch(() => {});
      }
    },
  });
}
