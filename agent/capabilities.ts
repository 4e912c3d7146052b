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
  [Group.NETWORK, "network"],
  [Group.TCP, "tcp"],
  [Group.DNS, "dns"],
  [Group.SYSCALL, "syscall"],
  [Group.FANOTIFY, "fanotify"],
  [Group.RING, "io_uring"],
];

/** What prevent and block of a section come to, where its programs are there. */
interface Acting {
  readonly section: Section;
  /** Program group without which the section sees nothing. */
  readonly group: number;
  readonly prevent: readonly [Delivery, string];
  readonly block: readonly [Delivery, string];
}

/** What holds with a program group, or what holds without. */
function depending(groups: number, group: number, having: string, lacking: string): string {
  return (groups & group) === 0 ? lacking : having;
}

function ofProcesses(groups: number): Omit<Acting, "section" | "group"> {
  const killed = "the process is killed before its first instruction";
  const byPath = `programs of the image are refused by path with EPERM; otherwise ${killed}`;
  return (groups & Group.FANOTIFY) === 0
    ? { prevent: [Delivery.KILLED, killed], block: [Delivery.KILLED, `${killed}, then the container`] }
    : { prevent: [Delivery.DENIED, byPath], block: [Delivery.DENIED, "as prevent, then the container"] };
}

function ofConnections(groups: number): Omit<Acting, "section" | "group"> {
  const listening = depending(groups, Group.TCP, "is killed", "is not seen");
  const packets = depending(groups, Group.SYSCALL, "is killed", "is not seen");
  const inRings = depending(groups, Group.RING, "", ", by io_uring is not seen");
  const note = `connect, send, bind and raw sockets fail with EPERM; who listens without bind ${listening}; who opens a packet socket ${packets}${inRings}`;
  return { prevent: [Delivery.DENIED, note], block: [Delivery.DENIED, "as prevent, then the container"] };
}

function ofFiles(groups: number): Omit<Acting, "section" | "group"> {
  const rings = depending(groups, Group.RING, "", "; what is asked for by io_uring is not seen");
  const ended = "opening a file ends its process before it can use it; removal, renaming and modes have happened";
  if ((groups & Group.FANOTIFY) === 0) {
    return {
      prevent: [Delivery.NOT_POSSIBLE, `no file system watch and no BPF LSM: changes are told after the fact${rings}`],
      block: [Delivery.AFTER_THE_FACT, `${ended}${rings}; then the container`],
    };
  }
  const refused =
    "opening a denied or protected file of the root file system for writing fails with EPERM; volumes, memory, removal, renaming, modes and what is only unknown are told after the fact";
  return {
    prevent: [Delivery.DENIED, `${refused}${rings}`],
    block: [Delivery.DENIED, `as prevent; where it could not be refused ${ended}${rings}; then the container`],
  };
}

function actings(groups: number): Acting[] {
  return [
    { section: Section.PROCESS, group: Group.PROCESS, ...ofProcesses(groups) },
    { section: Section.NETWORK, group: Group.NETWORK, ...ofConnections(groups) },
    {
      section: Section.DNS,
      group: Group.DNS,
      prevent: [
        Delivery.DENIED,
        "the query is dropped: EPERM over UDP, no answer over TCP; a query over TCP in more than one segment passes",
      ],
      block: [Delivery.DENIED, "the query is dropped, then the container is stopped"],
    },
    { section: Section.FILESYSTEM, group: Group.SYSCALL, ...ofFiles(groups) },
    {
      section: Section.SYSCALL,
      group: Group.SYSCALL,
      prevent: [Delivery.NOT_POSSIBLE, "not offered for system calls"],
      block: [Delivery.AFTER_THE_FACT, "the call has been made; process and container are ended"],
    },
  ];
}

function capabilities(groups: number): EffectCapability[] {
  return actings(groups).flatMap(({ section, group, prevent, block }) => {
    const isThere = (groups & group) !== 0;
    const missing = [Delivery.NOT_POSSIBLE, "the kernel programs of this section did not load"] as const;
    const each = (effect: Effect, [delivery, note]: readonly [Delivery, string]) =>
      create(EffectCapabilitySchema, { section, effect, delivery, note });
    return [
      each(Effect.ALERT, isThere ? [Delivery.AUDITED, ""] : missing),
      each(Effect.PREVENT, isThere ? prevent : missing),
      each(Effect.BLOCK, isThere ? block : missing),
    ];
  });
}

/** What this node can do, from what the sensor could load. Without a sensor nothing is possible. */
export function toCapabilities(hello: HelloFrame | undefined, reason: string): Capabilities {
  const groups = hello?.groups ?? 0;
  return create(CapabilitiesSchema, {
    kernelRelease: hello?.kernelRelease ?? "",
    architecture: arch(),
    sensorGroups: GROUP_NAMES.filter(([bit]) => (groups & bit) !== 0).map(([, name]) => name),
    effects: capabilities(groups),
    missing: hello ? (hello.missing === "" ? {} : { sensor: hello.missing }) : { sensor: reason.slice(0, 500) },
    canKillContainerInKernel: (groups & Group.KILL_CONTAINER) !== 0,
  });
}
