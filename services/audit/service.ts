import { create } from "@bufbuild/protobuf";
import type { ConnectRouter } from "@connectrpc/connect";
import type { Audit } from "#gen/gabion/audit/v1/audit_pb.ts";
import {
  AuditService,
  ListAuditsResponseSchema,
  type WatchAuditsRequest,
  type WatchAuditsResponse,
  WatchAuditsResponseSchema,
} from "#gen/gabion/audit/v1/audit_service_pb.ts";
import type { Verdict } from "#gen/gabion/audit/v1/verdict_pb.ts";
import type { FanOut } from "#lib/flow/fan-out.ts";
import { identityText } from "#lib/pki/identity.ts";
import { notFound } from "#lib/rpc/errors.ts";
import { peerKey } from "#lib/rpc/peer.ts";
import { readPage } from "#lib/service/page.ts";
import type { Collection } from "#lib/store/port.ts";
import { auditPosition, passes, toConditions } from "./audits.ts";
import { type SubmitDependencies, submitAudits } from "./submit.ts";
import type { Verdicts } from "./verdicts.ts";

export interface AuditServiceDependencies extends SubmitDependencies {
  readonly collection: Collection<Audit>;
  readonly live: FanOut<Audit>;
  readonly verdicts: Verdicts;
}

async function* watchAudits(
  { live }: AuditServiceDependencies,
  { filter }: WatchAuditsRequest,
  signal: AbortSignal,
): AsyncIterable<WatchAuditsResponse> {
  const watched = live.watch(signal);
  // An empty first answer tells the watcher that from now on it misses nothing.
  yield create(WatchAuditsResponseSchema, {});
  for await (const { items, skippedCount } of watched) {
    const audits = items.filter((audit) => passes(filter, audit));
    if (audits.length > 0) yield create(WatchAuditsResponseSchema, { audits, skippedCount: BigInt(skippedCount) });
  }
}

/** Handlers of audit-service. */
export function registerAuditService(router: ConnectRouter, deps: AuditServiceDependencies): void {
  router.service(AuditService, {
    submitAudits: (requests, context) => submitAudits(deps, requests, context),
    async listAudits({ filter, pageSize, pageToken }) {
      const query = {
        where: toConditions(filter),
        orderBy: "receivedUs",
        isDescending: true,
        positionOf: auditPosition,
      };
      const { documents, nextPageToken } = await readPage(deps.collection, { pageSize, pageToken }, query);
      return create(ListAuditsResponseSchema, { audits: documents.map(({ value }) => value), nextPageToken });
    },
    async getAudit({ auditId }) {
      const stored = await deps.collection.get(auditId);
      if (!stored) throw notFound("audit", auditId);
      return { audit: stored.value };
    },
    watchAudits: (request, { signal }) => watchAudits(deps, request, signal),
    async issueVerdict({ verdict }, context) {
      return { verdict: await deps.verdicts.issue(verdict as Verdict, identityText(context.values.get(peerKey))) };
    },
  });
}
