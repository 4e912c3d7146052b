import { create } from "@bufbuild/protobuf";
import { compileContainerPolicy, sectionPolicy } from "#core/policy/container-policy.ts";
import { decideEvent } from "#core/policy/decide.ts";
import { sectionOfEvent } from "#core/policy/event-section.ts";
import { ruleOnNode } from "#core/policy/roll-out.ts";
import { compileRuleChoice } from "#core/policy/rule-choice.ts";
import { DEFAULT_TREATMENT } from "#core/policy/treatment.ts";
import type { Event } from "#gen/gabion/event/v1/event_pb.ts";
import type { Rule } from "#gen/gabion/rule/v1/rule_pb.ts";
import {
  type ExplainEventRequest,
  type ExplainEventResponse,
  ExplainEventResponseSchema,
} from "#gen/gabion/rule/v1/rule_service_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import { invalidRequest, notFound } from "#lib/rpc/errors.ts";
import type { FleetView } from "./fleet-view.ts";
import type { IntelView } from "./intel-view.ts";

/** The one running container that is meant. */
export function findContainer(containers: readonly Container[], wanted: string, nodeId: string): Container {
  const onNode = containers.filter((container) => nodeId === "" || container.nodeId === nodeId);
  const byId = onNode.filter(({ containerId }) => containerId === wanted);
  const found = byId.length > 0 ? byId : onNode.filter(({ name }) => name === wanted);
  const [first, second] = found;
  if (!first) throw notFound("running container", wanted);
  if (!second) return first;
  const places = found.map((each) => `${each.containerId} on ${each.nodeId}`).join(", ");
  throw invalidRequest([{ field: "container_id", message: `\`${wanted}\` is the name of several: ${places}` }]);
}

/** Decides an event as the container's node would, and says why. */
export async function explainEvent(
  rules: readonly Rule[],
  { fleet, intel }: { readonly fleet: FleetView; readonly intel: IntelView },
  { container: given, containerId, nodeId, event }: ExplainEventRequest,
): Promise<ExplainEventResponse> {
  const container = given ?? findContainer(await fleet.containers(), containerId, nodeId);
  const { policy: model } = await fleet.model(container.modelKey);
  const { rule, passedOver } = compileRuleChoice(rules)(container);
  const here = rule && ruleOnNode(rule, container.nodeId);
  const policy = compileContainerPolicy(here, model, DEFAULT_TREATMENT, { intel: await intel() });
  const section = sectionOfEvent(event as Event);
  const ofModel = model?.sections.find((each) => each.section === section);
  const decision = decideEvent(policy, event as Event, container);
  const node = (await fleet.nodes()).find((each) => each.nodeId === container.nodeId);
  const capability = node?.hello?.capabilities?.effects.find(
    (each) => each.section === section && each.effect === decision.effectApplied,
  );
  const asks = decision.explanation;
  if (rule && here !== rule) asks?.passedOver.unshift("roll-out: it has not come to this node, so the rule alerts");
  return create(ExplainEventResponseSchema, {
    container,
    ...(rule ? { rule } : {}),
    passedOver: passedOver.map((each) => ({ ruleId: each.rule.ruleId, name: each.rule.name, reason: each.reason })),
    decision,
    section,
    modelState: ofModel ? sectionPolicy(policy, section).state : 0,
    ...(ofModel?.completeness ? { completeness: ofModel.completeness } : {}),
    modelItemCount: ofModel?.facts.length ?? 0,
    ...(decision.isAudited && capability ? { delivery: capability.delivery, deliveryNote: capability.note } : {}),
  });
}
