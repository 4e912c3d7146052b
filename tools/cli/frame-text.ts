import { encryptedDnsReason } from "#core/detect/encrypted-dns.ts";
import { addressText } from "#core/matching/address.ts";
import { recordTypeText } from "#core/policy/dns-policy.ts";
import { syscallName } from "#core/syscall/names.ts";
import { enumText } from "#core/text/enum-text.ts";
import { escapeBytes } from "#core/text/escape.ts";
import { FileOperation } from "#gen/gabion/event/v1/event_pb.ts";
import type { ContainerFrame, DnsFrame, FileFrame } from "../../agent/wire/frames.ts";
import { ConnectFlag, DnsFlag, ExecFlag, FileFlag, ListenFlag, SyscallFlag } from "../../agent/wire/layout.ts";

const PROTOCOLS: Readonly<Record<number, string>> = { 1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6" };

function flagWords(flags: number, names: Readonly<Record<string, number>>, shown: readonly string[]): string {
  const words = shown
    .filter((name) => (flags & (names[name] ?? 0)) !== 0)
    .map((name) => name.toLowerCase().replaceAll("_", "-"));
  return words.length === 0 ? "" : ` [${words.join(" ")}]`;
}

function fileText({ path, base, target, targetBase, operation, flags, mode }: FileFrame): string {
  const whole = (from: Uint8Array, text: Uint8Array) =>
    text.length === 0
      ? ""
      : text[0] === 0x2f || from.length === 0
        ? escapeBytes(text)
        : `${escapeBytes(from)}/${escapeBytes(text)}`;
  const to = target.length === 0 ? "" : ` → ${whole(targetBase, target)}`;
  const words = flagWords(flags, FileFlag, ["CUT", "EXECUTABLE", "TYPED"]);
  return `${enumText(FileOperation, operation as FileOperation)} ${whole(base, path)}${to} mode ${(mode & 0o7777).toString(8)}${words}`;
}

function dnsText(frame: DnsFrame): string {
  const words = flagWords(frame.flags, DnsFlag, ["MALFORMED", "TCP", "CUT"]);
  const name = `${escapeBytes(frame.name)} ${recordTypeText(frame.recordType)}`;
  if ((frame.flags & DnsFlag.ANSWER) === 0) return `asks ${addressText(frame.resolver)} for ${name}${words}`;
  const answers = frame.answers.map(addressText).join(", ") || `no address (code ${frame.responseCode})`;
  return `${name} is ${answers}${words}`;
}

/** What happened, in one line, safe to print. */
export function frameText(frame: ContainerFrame): string {
  switch (frame.kind) {
    case "exec": {
      const flags = ["SCRIPT", "MEMFD", "UNLINKED", "OVERLAY_NEW", "SOCKET_STREAM", "SETUID"];
      return `${escapeBytes(frame.path)} ${frame.args.map(escapeBytes).join(" ")}${flagWords(frame.flags, ExecFlag, flags)}`;
    }
    case "connect": {
      const name = frame.domain.length === 0 ? "" : ` (${escapeBytes(frame.domain)})`;
      const where = `${addressText(frame.address)}${name} ${PROTOCOLS[frame.transport] ?? frame.transport}/${frame.port}`;
      const isResolver = encryptedDnsReason(addressText(frame.address), frame.port, escapeBytes(frame.domain));
      return `${where}${flagWords(frame.flags, ConnectFlag, ["INTERNET", "DIRECT", "LOOPBACK", "DATAGRAM", "FOREIGN_RESOLVER"])}${isResolver ? " [encrypted-dns]" : ""}`;
    }
    case "listen":
      return `${addressText(frame.address)} ${PROTOCOLS[frame.transport] ?? frame.transport}/${frame.port}${flagWords(frame.flags, ListenFlag, ["EPHEMERAL", "BIND"])}`;
    case "socket":
      return `family ${frame.family} type ${frame.type} protocol ${frame.protocol}`;
    case "dns":
      return dnsText(frame);
    case "file":
      return fileText(frame);
    case "syscall": {
      const isCompat = (frame.flags & SyscallFlag.COMPAT) !== 0;
      return `first use of ${syscallName(frame.number, isCompat)}${isCompat ? " (32-bit)" : ""}`;
    }
    case "contact":
      return `${addressText(frame.address)} ${PROTOCOLS[frame.transport] ?? frame.transport}/${frame.port} ${frame.isFailed ? `failed (errno ${frame.error})` : "answered for the first time"}`;
    case "redirect":
      return `descriptor ${frame.descriptor} became a connection`;
    case "refused":
      return `${frame.isExec ? "exec" : "open"} of ${escapeBytes(frame.path)} refused`;
    case "written":
      return `${escapeBytes(frame.path)} closed after writing, ${frame.size} bytes`;
  }
}

/** Who did it: pid and program; nobody for what the kernel did on behalf of a socket. */
export function frameActor(frame: ContainerFrame): { readonly pid: number; readonly exe: string } {
  if (frame.kind === "exec") return { pid: frame.pid, exe: escapeBytes(frame.comm) };
  if (frame.kind === "refused" || frame.kind === "written") return { pid: frame.pid, exe: "" };
  if (frame.kind === "contact") return { pid: 0, exe: "" };
  return { pid: frame.actor.pid, exe: escapeBytes(frame.actor.exe) };
}
