import type { DnsFinding } from "#core/detect/dns.ts";
import { domainFact, evaluateDnsDetection, evaluateDnsQuery, ruleDnsQuery } from "#core/policy/dns-policy.ts";
import { escapeBytes } from "#core/text/escape.ts";
import { type Event, Section } from "#gen/gabion/event/v1/event_pb.ts";
import { Outcome as PolicyOutcome, Reason } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import type { SlotUse } from "../enforce/slot-table.ts";
import type { DnsFrame } from "../wire/frames.ts";
import { DnsFlag } from "../wire/layout.ts";
import { type EventMaker, type Judged, NOTHING } from "./judged.ts";

/** Response code for a name that does not exist (RFC 1035). */
const NXDOMAIN = 3;

/** What the model knows is looked up in good faith, though it does not exist: search paths ask for much. */
function isMissing({ responseCode, recordType }: DnsFrame, name: string, use: SlotUse): boolean {
  if (responseCode !== NXDOMAIN) return false;
  const { finding, treatment } = ruleDnsQuery(use.policy.dns, { name, recordType, isMalformed: false });
  return finding.reason !== Reason.MODEL || treatment.isLearned;
}

export function judgeDns(maker: EventMaker, container: WatchedContainer, frame: DnsFrame, use: SlotUse): Judged[] {
  const name = escapeBytes(frame.name);
  const { recordType, payloadLength, ktimeNs } = frame;
  const isAnswer = (frame.flags & DnsFlag.ANSWER) !== 0;
  const isMalformed = (frame.flags & DnsFlag.MALFORMED) !== 0;
  const value = {
    name,
    recordType,
    answers: [...frame.answers],
    resolver: frame.resolver,
    isMalformed,
    isTcp: (frame.flags & DnsFlag.TCP) !== 0,
    payloadLength,
    ...(isAnswer ? { responseCode: frame.responseCode } : {}),
  };
  const event = maker.eventOf(container, frame, { case: "dnsQuery", value });
  const { dns } = maker.detectorsOf(container);
  const now = Number(ktimeNs / 1_000_000n);
  if (isAnswer) {
    const found = isMissing(frame, name, use) ? dns.takeMissing(name, now) : undefined;
    return found ? [judgeDnsFinding(event, found, use)] : [];
  }
  const decision = evaluateDnsQuery(use.policy.dns, { name, recordType, isMalformed });
  // What a list allows is looked at all the same: detectors come before lists.
  const isListed = decision.explanation?.reason === Reason.ALLOWED_LIST;
  const isKnown = decision.outcome === PolicyOutcome.ALLOW && !decision.isLearned && !isListed;
  const found = isMalformed || isKnown ? undefined : dns.takeQuery({ name, recordType, payloadLength }, now);
  // What makes a detector fire is not learned beside it.
  if (found && decision.isLearned)
    Object.assign(decision, { isLearned: false, isHeld: true, detector: found.detector });
  const judged: Judged = {
    section: Section.DNS,
    event,
    decision,
    facts: isMalformed ? [] : [domainFact({ name, recordType, isMalformed })],
    object: [event.actor?.path, name, recordType, isMalformed],
    act: { killed: "", denied: "the query was dropped", happened: "the query had left" },
  };
  return found ? [judged, judgeDnsFinding(event, found, use)] : [judged];
}

function judgeDnsFinding(event: Event, { detector, domain, message }: DnsFinding, use: SlotUse): Judged {
  return {
    section: Section.DNS,
    event,
    decision: evaluateDnsDetection(use.policy.dns, detector, message, domain),
    facts: [],
    object: [detector, domain],
    act: { ...NOTHING, happened: "the queries had left" },
    isCompanion: true,
  };
}
