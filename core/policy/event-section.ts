import { type Event, Section } from "#gen/gabion/event/v1/event_pb.ts";

/** What an event may be. */
export type EventKind = NonNullable<Event["kind"]["case"]>;

/** The rules section that each kind of event belongs to. */
const SECTION_OF: Readonly<Record<EventKind, Section>> = {
  exec: Section.PROCESS,
  exit: Section.PROCESS,
  streamRedirect: Section.PROCESS,
  connect: Section.NETWORK,
  listen: Section.NETWORK,
  rawSocket: Section.NETWORK,
  portScan: Section.NETWORK,
  dnsQuery: Section.DNS,
  fileChange: Section.FILESYSTEM,
  syscallUse: Section.SYSCALL,
};

/** The rules section that an event belongs to. */
export function sectionOfEvent({ kind }: Event): Section {
  return kind.case === undefined ? Section.UNSPECIFIED : SECTION_OF[kind.case];
}

/** The kinds of events that policy looks at: the end of a process is told and never judged. */
export function judgedKinds(): EventKind[] {
  return (Object.keys(SECTION_OF) as EventKind[]).filter((kind) => kind !== "exit");
}

export function sectionOfKind(kind: EventKind): Section {
  return SECTION_OF[kind];
}
