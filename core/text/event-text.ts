import { type Event, FileOperation, Transport } from "#gen/gabion/event/v1/event_pb.ts";
import { addressText } from "../matching/address.ts";
import { enumText } from "./enum-text.ts";

function by(event: Event): string {
  return event.actor?.path ? ` by \`${event.actor.path}\`` : "";
}

function port(transport: Transport, number: number): string {
  return `${enumText(Transport, transport)}/${number}`;
}

/** What happened in a few words, for people. */
export function eventText(event: Event): string {
  const { kind } = event;
  switch (kind.case) {
    case "exec":
      return `the start of \`${kind.value.process?.path ?? ""}\``;
    case "exit":
      return `the end of \`${kind.value.process?.path ?? ""}\``;
    case "connect": {
      const name = kind.value.domain === "" ? "" : ` (${kind.value.domain})`;
      const to = `\`${addressText(kind.value.address)}\`${name} ${port(kind.value.transport, kind.value.port)}`;
      return `a connection to ${to}${by(event)}`;
    }
    case "listen":
      return `listening on ${port(kind.value.transport, kind.value.port)}${by(event)}`;
    case "rawSocket":
      return `a raw socket${by(event)}`;
    case "portScan":
      return "a port scan";
    case "dnsQuery":
      return `the look-up of \`${kind.value.name}\`${by(event)}`;
    case "fileChange": {
      const to = kind.value.newPath === "" ? "" : ` to \`${kind.value.newPath}\``;
      return `${enumText(FileOperation, kind.value.operation)} of \`${kind.value.path}\`${to}${by(event)}${kind.value.isIoUring ? ", asked for through io_uring" : ""}`;
    }
    case "syscallUse":
      return `system call \`${kind.value.name}\``;
    case "streamRedirect":
      return `a standard stream that became a connection${by(event)}`;
    default:
      return "an event";
  }
}
