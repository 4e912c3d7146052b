import { enumText } from "#core/text/enum-text.ts";
import { printable } from "#core/text/escape.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import type { SystemAudit } from "./audit-writer.ts";

/** What an agent says of its own work: one function for each thing that may go wrong with a container. */

function failure(name: string, container: WatchedContainer | undefined, message: string): SystemAudit {
  return { name, message, isSuccess: false, ...(container ? { container: container.message } : {}) };
}

export function modelFull(container: WatchedContainer, modelKey: string, section: Section): SystemAudit {
  const which = `the ${enumText(Section, section)} section of model ${modelKey}`;
  return failure("model_full", container, `${which} is full: new behaviour is not learned any more`);
}

/** More than one container may send is a sign in itself: of an attack on the sensor, or of one hidden in noise. */
export function flooding(container: WatchedContainer, throttled: bigint): SystemAudit {
  const message = `container ${container.id} does more than the sensor takes from one container: ${throttled} events were counted and not told`;
  return failure("flooding", container, message);
}

/** One for all processes of a container that do so within a fold: they may be many. */
export function leftControlGroup(container: WatchedContainer, pid: number, path: string): SystemAudit {
  const message = `process ${pid} of container ${container.id} has left its control group for \`${printable(path)}\`: what it does from now on is not seen`;
  return { ...failure("left_control_group", container, message), foldKey: `left_control_group ${container.id}` };
}

export function holdExpired(container: WatchedContainer | undefined, holdMs: number): SystemAudit {
  const message = `a new container went on before its policy was in place: it was held for ${holdMs} ms`;
  return failure("hold_expired", container, message);
}

export function notInForce(container: WatchedContainer): SystemAudit {
  const message = `the policy of container ${container.id} is not in force in the kernel; trying again`;
  return failure("policy_not_in_force", container, message);
}

export function unwatched(containerId: string, reason: string): SystemAudit {
  const message = `container ${containerId} is not watched: ${reason}; trying again with every scan`;
  return failure("container_not_watched", undefined, message);
}

export function scannedInPart(container: WatchedContainer): SystemAudit {
  const message = `container ${container.id} has more processes, or groups of them, than are looked at when it is found running: the rest is seen by what it does from now on`;
  return failure("running_scan_in_part", container, message);
}

/** What follows from a file that is not the image's follows no more. */
export function readInPart(container: WatchedContainer): SystemAudit {
  const message = `the root file system of container ${container.id} is too large, or too deep, to be read whole: a program that is none of the image's may pass for one`;
  return failure("image_read_in_part", container, message);
}

export function unprotected(container: WatchedContainer, reason: string): SystemAudit {
  const message = `not all that the rule of container ${container.id} refuses in its file system is refused: ${reason}; it is told after the fact`;
  return failure("watch_incomplete", container, message);
}

export function sensorLost(reason: string): SystemAudit {
  const message = `the sensor ended (${reason}): until it runs again nothing is seen or enforced in the kernel`;
  return failure("sensor_lost", undefined, message);
}
