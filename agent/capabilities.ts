import { arch } from "node:os";
import { create } from "@bufbuild/protobuf";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import {
  type Capabilities,
  CapabilitiesSchema,
  type EffectCapability,
  EffectCapabilitySchema,
} from "#gen/gabion/fleet/v1/fleet_pb.ts";
import { Delivery, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { HelloFrame } from "./wire/frames.ts";
import { Group } from "./wire/layout.ts";

const GROUP_NAMES: readonly (readonly [number, string])[] = [
  [Group.PROCESS, "process"],
  [Group.CGROUP, "cgroup"],
  [Group.KILL_CONTAINER, "kill_container"],
];

function capability(section: Section, effect: Effect, delivery: Delivery, note = ""): EffectCapability {
  return create(EffectCapabilitySchema, { section, effect, delivery, note });
}

function processCapabilities(groups: number): EffectCapability[] {
  const isThere = (groups & Group.PROCESS) !== 0;
  const acting = isThere ? Delivery.KILLED : Delivery.NOT_POSSIBLE;
  const why = isThere ? "the process is killed before its first instruction" : "the process programs did not load";
  return [
    capability(Section.PROCESS, Effect.ALERT, isThere ? Delivery.AUDITED : Delivery.NOT_POSSIBLE, isThere ? "" : why),
    capability(Section.PROCESS, Effect.PREVENT, acting, why),
    capability(Section.PROCESS, Effect.BLOCK, acting, isThere ? `${why}, then the container` : why),
  ];
}

/** What this node can do, from what the sensor could load. Without a sensor nothing is possible. */
export function toCapabilities(hello: HelloFrame | undefined, reason: string): Capabilities {
  const groups = hello?.groups ?? 0;
  return create(CapabilitiesSchema, {
    kernelRelease: hello?.kernelRelease ?? "",
    architecture: arch(),
    sensorGroups: GROUP_NAMES.filter(([bit]) => (groups & bit) !== 0).map(([, name]) => name),
    effects: processCapabilities(groups),
    missing: hello ? (hello.missing === "" ? {} : { sensor: hello.missing }) : { sensor: reason.slice(0, 500) },
    canKillContainerInKernel: (groups & Group.KILL_CONTAINER) !== 0,
  });
}
