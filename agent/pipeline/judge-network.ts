import { encryptedDnsReason } from "#core/detect/encrypted-dns.ts";
import { scanObject, scanText } from "#core/detect/port-scan.ts";
import { addressBytes, addressText } from "#core/matching/address.ts";
import type { AddressClasses } from "#core/matching/address-class.ts";
import { evaluateDnsDetection } from "#core/policy/dns-policy.ts";
import { isNewWithin } from "#core/policy/network-detectors.ts";
import type { ConnectEvent, ListenEvent } from "#core/policy/network-event.ts";
import {
  connectFacts,
  evaluateConnect,
  evaluateListen,
  listenFact,
  ruleConnect,
  transportOf,
} from "#core/policy/network-policy.ts";
import { evaluatePortScan, evaluateRawSocket } from "#core/policy/socket-policy.ts";
import { escapeBytes } from "#core/text/escape.ts";
import { type Event, Section, type Transport } from "#gen/gabion/event/v1/event_pb.ts";
import { Effect, Outcome as PolicyOutcome, Reason } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import type { SlotUse } from "../enforce/slot-table.ts";
import type { Actor, ConnectFrame, ContactFrame, ListenFrame, SocketFrame } from "../wire/frames.ts";
import { ConnectFlag, ListenFlag } from "../wire/layout.ts";
import { type EventMaker, type Judged, NOTHING } from "./judged.ts";

/** The death of its first process is the end of a container. */
function ended({ isFirst }: Actor): string {
  return isFirst ? "; it was the container's first process, so the container ended" : "";
}

export function judgeConnect(
  maker: EventMaker,
  container: WatchedContainer,
  frame: ConnectFrame,
  use: SlotUse,
): Judged[] {
  const { address, port, flags } = frame;
  const connect: ConnectEvent = {
    transport: transportOf(frame.transport),
    address,
    port,
    domain: escapeBytes(frame.domain),
    isInternet: (flags & ConnectFlag.INTERNET) !== 0,
    isLoopback: (flags & ConnectFlag.LOOPBACK) !== 0,
    isDirect: (flags & ConnectFlag.DIRECT) !== 0,
  };
  const event = maker.eventOf(container, frame, { case: "connect", value: connect });
  const decision = evaluateConnect(use.policy.network, connect);
  // Who was asked may be made to answer anybody: refused, but nobody is stopped for it.
  const isAnswer = (flags & ConnectFlag.ANSWER) !== 0;
  if (isAnswer && decision.effectApplied === Effect.BLOCK) Object.assign(decision, { effectApplied: Effect.PREVENT });
  const object = [event.actor?.path, addressText(address), port, connect.transport];
  const act = {
    killed: "",
    denied: (flags & ConnectFlag.DATAGRAM) === 0 ? "the connect failed with EPERM" : "the send failed with EPERM",
    happened: "the connection had been begun",
  };
  const judged = { section: Section.NETWORK, event, decision, facts: connectFacts(connect), object, act };
  const encrypted = judgeEncryptedDns(event, connect, use, object);
  if ((flags & ConnectFlag.FOREIGN_RESOLVER) === 0) return [judged, ...encrypted];
  return [...withForeignResolver(judged, use, frame), ...encrypted];
}

/** The kernel did the stronger of what both judgements ask for. */
function withForeignResolver(judged: Judged, use: SlotUse, { address, outcome }: ConnectFrame): Judged[] {
  const text = addressText(address);
  const own = use.policy.dns.resolvers?.map((resolver) => `\`${resolver}\``).join(", ");
  const message = `\`${text}\` was asked for names, and the container was given ${own} for that`;
  const decision = evaluateDnsDetection(use.policy.dns, "foreign_resolver", message, text);
  const object = ["foreign_resolver", ...judged.object];
  const companion = { ...judged, section: Section.DNS, decision, facts: [], object, isCompanion: true };
  return decision.effectApplied >= Effect.PREVENT
    ? [
        { ...judged, sharesOutcome: true },
        { ...companion, outcome },
      ]
    : [judged, companion];
}

function judgeEncryptedDns(event: Event, connect: ConnectEvent, use: SlotUse, object: readonly unknown[]): Judged[] {
  const address = addressText(connect.address);
  const reason = encryptedDnsReason(address, connect.port, connect.domain);
  if (reason === undefined) return [];
  const message = `a resolver was contacted past the one that the container was given: ${reason}`;
  const decision = evaluateDnsDetection(use.policy.dns, "encrypted_dns", message, connect.domain || address);
  const act = { ...NOTHING, happened: "the connection had been begun" };
  return [
    { section: Section.DNS, event, decision, facts: [], object: ["encrypted_dns", ...object], act, isCompanion: true },
  ];
}

export function judgeListen(maker: EventMaker, container: WatchedContainer, frame: ListenFrame, use: SlotUse): Judged {
  const listen: ListenEvent = {
    transport: transportOf(frame.transport),
    port: frame.port,
    isEphemeral: (frame.flags & ListenFlag.EPHEMERAL) !== 0,
  };
  const event = maker.eventOf(container, frame, { case: "listen", value: { ...listen, address: frame.address } });
  const decision = evaluateListen(use.policy.network, listen);
  return {
    section: Section.NETWORK,
    event,
    decision,
    facts: [listenFact(listen)],
    object: [event.actor?.path, listen.port, listen.transport],
    act: {
      killed: `the process was killed before listen returned${ended(frame.actor)}`,
      denied: "the bind failed with EPERM",
      happened: "the socket was listening",
      target: frame.actor,
    },
  };
}

export function judgeSocket(maker: EventMaker, container: WatchedContainer, frame: SocketFrame, use: SlotUse): Judged {
  const { family, protocol, type } = frame;
  const event = maker.eventOf(container, frame, { case: "rawSocket", value: { family, protocol, type } });
  const { path: processPath = "", name: processName = "" } = event.actor ?? {};
  const decision = evaluateRawSocket(use.policy.network, { family, protocol, type, processPath, processName });
  return {
    section: Section.NETWORK,
    event,
    decision,
    facts: [],
    object: [processPath, family, protocol],
    act: {
      killed: `the process was killed before it could use the socket${ended(frame.actor)}`,
      denied: "opening the socket failed with EPERM",
      happened: "the socket had been opened",
      target: frame.actor,
    },
  };
}

/** The network says that a host cannot be reached: nobody has its address, or a firewall refuses (errno EHOSTUNREACH). */
const UNREACHABLE = 113;

/** True where neither model nor list holds a destination, and it is not learned either; within the cluster, not its port. */
function isNewTo(
  use: SlotUse,
  classes: AddressClasses,
  { address, port, transport }: { address: Uint8Array; port: number; transport: Transport },
): boolean {
  const kind = classes.of(address);
  const { finding, treatment } = ruleConnect(use.policy.network, {
    ...{ transport, address, port, domain: "", isDirect: false },
    isInternet: kind === "internet",
    isLoopback: kind === "loopback",
  });
  if (kind === "internal")
    return finding.reason !== Reason.ALLOWED_LIST && isNewWithin(use.policy.network, { port, transport });
  return finding.outcome === PolicyOutcome.DEVIATION && !treatment.isLearned;
}

export function judgeContact(
  maker: EventMaker,
  container: WatchedContainer,
  frame: ContactFrame,
  use: SlotUse,
): Judged[] {
  const address = addressText(frame.address);
  const { port, isFailed } = frame;
  const transport = transportOf(frame.transport);
  const isNew = isNewTo(use, maker.addressClasses, { address: frame.address, port, transport });
  const isDark = isFailed && frame.error === UNREACHABLE && maker.addressClasses.of(frame.address) === "internal";
  const contact = { address, port, transport, isFailed, isNew, isDark };
  const scan = maker.detectorsOf(container).scan.take(contact, Number(frame.ktimeNs / 1_000_000n));
  if (!scan) return [];
  const { isHorizontal, portCount, addressCount, failedCount, contactCount } = scan;
  const samples = scan.samples.map((sample) => ({
    transport: sample.transport,
    address: addressBytes(sample.address),
    port: sample.port,
  }));
  const value = { isHorizontal, portCount, addressCount, failedCount, contactCount, samples };
  const event = maker.event(container, frame.ktimeNs, { case: "portScan", value });
  const about = scanObject(isHorizontal, scan.samples[0]);
  const decision = evaluatePortScan(use.policy.network, scanText(scan), about);
  const act = { ...NOTHING, happened: "the ports had been tried" };
  return [
    {
      section: Section.NETWORK,
      event,
      decision,
      facts: [],
      object: ["port_scan", isHorizontal, about],
      act,
    },
  ];
}
