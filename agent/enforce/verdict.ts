import { type Verdict, VerdictAction } from "#gen/gabion/audit/v1/verdict_pb.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import type { SystemAudit } from "../pipeline/audit-writer.ts";
import type { StopResult } from "./stop.ts";

/** Does what a verdict orders, as far as this agent can. */
export async function carryOutVerdict(
  { action, containerId }: Verdict,
  container: WatchedContainer | undefined,
  stop: (container: WatchedContainer) => Promise<StopResult>,
): Promise<StopResult> {
  if (action !== VerdictAction.STOP_CONTAINER) {
    return { isStopped: false, note: "this agent cannot carry out such a verdict" };
  }
  if (!container) return { isStopped: false, note: `container \`${containerId}\` does not run on this node` };
  return stop(container);
}

/** The audit that answers a verdict: its issuer sends the order again until it comes. */
export function verdictAudit(
  { verdictId, issuedBy, reason }: Verdict,
  { isStopped, note }: StopResult,
  container: WatchedContainer | undefined,
): SystemAudit {
  return {
    name: "verdict_result",
    message: `verdict ${verdictId} by ${issuedBy} (${reason}): ${note}`,
    isSuccess: isStopped,
    verdictId,
    ...(container ? { container: container.message } : {}),
  };
}
