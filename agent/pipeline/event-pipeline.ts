import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { DnsDetector, type DnsFinding } from "#core/detect/dns.ts";
import { encryptedDnsReason } from "#core/detect/encrypted-dns.ts";
import { PortScanDetector, scanText } from "#core/detect/port-scan.ts";
import { addressText } from "#core/matching/address.ts";
import { factId } from "#core/model/fact.ts";
import { domainFact, evaluateDnsDetection, evaluateDnsQuery } from "#core/policy/dns-policy.ts";
import { evaluateFile, fileFacts } from "#core/policy/file-policy.ts";
import type { ConnectEvent, ListenEvent } from "#core/policy/network-event.ts";
import {
  connectFacts,
  evaluateConnect,
  evaluateListen,
  evaluatePortScan,
  evaluateRawSocket,
  listenFact,
  transportOf,
} from "#core/policy/network-policy.ts";
import { baseName, NOTHING_SPECIAL } from "#core/policy/process-event.ts";
import { evaluateProcess, evaluateRedirect } from "#core/policy/process-policy.ts";
import { evaluateSyscall, syscallFact } from "#core/policy/syscall-policy.ts";
import { syscallName } from "#core/syscall/names.ts";
import { escapeBytes } from "#core/text/escape.ts";
import {
  ContentState,
  type Event,
  EventSchema,
  FileOperation,
  type Process,
  ProcessSchema,
  Section,
} from "#gen/gabion/event/v1/event_pb.ts";
import type { Fact } from "#gen/gabion/model/v1/model_pb.ts";
import { type Decision, Outcome as PolicyOutcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import { pathsOfChange } from "../content/file-change.ts";
import type { SlotTable, SlotUse } from "../enforce/slot-table.ts";
import type {
  ActorFrame,
  ConnectFrame,
  ContactFrame,
  ContainerFrame,
  DnsFrame,
  ExecFrame,
  FileFrame,
  ListenFrame,
  RedirectFrame,
  RefusedFrame,
  SocketFrame,
  SyscallFrame,
} from "../wire/frames.ts";
import { ConnectFlag, DnsFlag, FileFlag, ListenFlag, SyscallFlag } from "../wire/layout.ts";
import { processOf } from "./actor.ts";
import { type Conclusion, isActedInKernel, type Target } from "./conclude.ts";
import type { WallClock } from "./exec-event.ts";
import type { ProcessTable } from "./process-table.ts";
import { Repeats } from "./repeats.ts";

export interface EventPipelineDependencies {
  readonly bootId: string;
  readonly processes: ProcessTable;
  readonly slots: SlotTable;
  readonly conclusion: Conclusion;
  readonly clock: Clock;
  readonly wallClock: WallClock;
}

/** An event with what policy says of it and what it teaches. */
interface Judged {
  readonly section: Section;
  readonly event: Event;
  readonly decision: Decision;
  readonly facts: readonly Fact[];
  /** What makes two audits equal. */
  readonly object: readonly unknown[];
  readonly act: {
    readonly killed: string;
    readonly denied: string;
    readonly happened: string;
    readonly target?: Target;
  };
}

interface Detectors {
  readonly scan: PortScanDetector;
  readonly dns: DnsDetector;
}

/** Everything that happens in a container but execs. */
export type OtherFrame = Exclude<ContainerFrame, ExecFrame>;

const NXDOMAIN = 3;
const NOTHING = { killed: "", denied: "", happened: "" };

/** Takes what happens in containers, execs apart, from frame to decision, and does what is left to do. */
export class EventPipeline {
  readonly #deps: EventPipelineDependencies;
  readonly #detectors = new WeakMap<WatchedContainer, Detectors>();
  readonly #repeats = new Repeats();

  constructor(deps: EventPipelineDependencies) {
    this.#deps = deps;
  }

  async handle(container: WatchedContainer, frame: OtherFrame): Promise<void> {
    const use = this.#deps.slots.of(frame.slot) ?? container.use;
    if (!use) return;
    const repeat = this.#repeats.find(container, frame);
    if (repeat) {
      this.#deps.conclusion.countAgain(container, repeat);
      return;
    }
    const all = await this.#judge(container, frame, use);
    for (const judged of all) await this.#conclude(container, frame, judged, use);
    const [only] = all;
    const isQuiet = all.length === 1 && only && !only.decision.isAudited && !only.decision.isHeld;
    if (!isQuiet) return;
    const factIds = only.decision.isLearned ? only.facts.map(factId) : [];
    this.#repeats.remember(container, frame, { section: only.section, factIds });
  }

  async #conclude(container: WatchedContainer, frame: OtherFrame, judged: Judged, use: SlotUse): Promise<void> {
    const { conclusion } = this.#deps;
    const { section, event, decision, facts, object, act } = judged;
    conclusion.learn(container, facts, decision, use, section);
    if (!decision.isAudited && !isActedInKernel(frame.outcome)) return;
    const delivered = await conclusion.deliver(container, frame.outcome, decision, act);
    conclusion.audit(container, event, decision, use, section, delivered, object);
  }

  async #judge(container: WatchedContainer, frame: OtherFrame, use: SlotUse): Promise<Judged[]> {
    switch (frame.kind) {
      case "connect":
        return this.#judgeConnect(container, frame, use);
      case "listen":
        return [this.#judgeListen(container, frame, use)];
      case "socket":
        return [this.#judgeSocket(container, frame, use)];
      case "dns":
        return this.#judgeDns(container, frame, use);
      case "file":
        return [await this.#judgeFile(container, frame, use)];
      case "syscall":
        return [this.#judgeSyscall(container, frame, use)];
      case "redirect":
        return [this.#judgeRedirect(container, frame, use)];
      case "contact":
        return this.#judgeContact(container, frame, use);
      case "refused":
        return [this.#judgeRefused(container, frame, use)];
    }
  }

  #detectorsOf(container: WatchedContainer): Detectors {
    const known = this.#detectors.get(container) ?? { scan: new PortScanDetector(), dns: new DnsDetector() };
    this.#detectors.set(container, known);
    return known;
  }

  #event(
    container: WatchedContainer,
    ktimeNs: bigint,
    kind: MessageInitShape<typeof EventSchema>["kind"],
    actor?: Process,
    ancestors: Process[] = [],
  ): Event {
    return create(EventSchema, {
      eventTime: timestampFromMs(this.#deps.wallClock.toMs(ktimeNs)),
      ktimeNs,
      containerId: container.id,
      ...(actor ? { actor } : {}),
      ancestors,
      ...(kind ? { kind } : {}),
    });
  }

  #eventOf(
    container: WatchedContainer,
    { actor, ktimeNs }: ActorFrame,
    kind: MessageInitShape<typeof EventSchema>["kind"],
  ): Event {
    const { processes, bootId, wallClock } = this.#deps;
    if (actor.pid === 0) return this.#event(container, ktimeNs, kind);
    const process = processOf(actor, processes, bootId, wallClock);
    return this.#event(container, ktimeNs, kind, process, processes.ancestors(actor.parentPid, actor.parentStartNs));
  }

  #judgeConnect(container: WatchedContainer, frame: ConnectFrame, use: SlotUse): Judged[] {
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
    const event = this.#eventOf(container, frame, { case: "connect", value: connect });
    const decision = evaluateConnect(use.policy.network, connect);
    const object = [event.actor?.path, addressText(address), port, connect.transport];
    const act = {
      killed: "",
      denied: (flags & ConnectFlag.DATAGRAM) === 0 ? "the connect failed with EPERM" : "the send failed with EPERM",
      happened: "the connection had been begun",
    };
    const judged = { section: Section.NETWORK, event, decision, facts: connectFacts(connect), object, act };
    return [judged, ...this.#judgeEncryptedDns(event, connect, use, object)];
  }

  #judgeEncryptedDns(event: Event, connect: ConnectEvent, use: SlotUse, object: readonly unknown[]): Judged[] {
    const address = addressText(connect.address);
    const reason = encryptedDnsReason(address, connect.port, connect.domain);
    if (reason === undefined) return [];
    const message = `a resolver was contacted past the one that the container was given: ${reason}`;
    const decision = evaluateDnsDetection(use.policy.dns, "encrypted_dns", message, connect.domain || address);
    const act = { ...NOTHING, happened: "the connection had been begun" };
    return [{ section: Section.DNS, event, decision, facts: [], object: ["encrypted_dns", ...object], act }];
  }

  #judgeListen(container: WatchedContainer, frame: ListenFrame, use: SlotUse): Judged {
    const listen: ListenEvent = {
      transport: transportOf(frame.transport),
      port: frame.port,
      isEphemeral: (frame.flags & ListenFlag.EPHEMERAL) !== 0,
    };
    const event = this.#eventOf(container, frame, { case: "listen", value: { ...listen, address: frame.address } });
    const decision = evaluateListen(use.policy.network, listen);
    return {
      section: Section.NETWORK,
      event,
      decision,
      facts: [listenFact(listen)],
      object: [event.actor?.path, listen.port, listen.transport],
      act: {
        killed: "the process was killed before listen returned",
        denied: "the bind failed with EPERM",
        happened: "the socket was listening",
        target: frame.actor,
      },
    };
  }

  #judgeSocket(container: WatchedContainer, frame: SocketFrame, use: SlotUse): Judged {
    const { family, protocol, type } = frame;
    const event = this.#eventOf(container, frame, { case: "rawSocket", value: { family, protocol, type } });
    const { path: processPath = "", name: processName = "" } = event.actor ?? {};
    const decision = evaluateRawSocket(use.policy.network, { family, protocol, processPath, processName });
    return {
      section: Section.NETWORK,
      event,
      decision,
      facts: [],
      object: [processPath, family, protocol],
      act: {
        killed: "the process was killed before it could use the socket",
        denied: "opening the socket failed with EPERM",
        happened: "the socket had been opened",
        target: frame.actor,
      },
    };
  }

  #judgeDns(container: WatchedContainer, frame: DnsFrame, use: SlotUse): Judged[] {
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
    const event = this.#eventOf(container, frame, { case: "dnsQuery", value });
    const { dns } = this.#detectorsOf(container);
    const now = Number(ktimeNs / 1_000_000n);
    if (isAnswer) {
      const found = frame.responseCode === NXDOMAIN ? dns.takeMissing(name, now) : undefined;
      return found ? [this.#judgeDnsFinding(event, found, use)] : [];
    }
    const decision = evaluateDnsQuery(use.policy.dns, { name, recordType, isMalformed });
    const judged: Judged = {
      section: Section.DNS,
      event,
      decision,
      facts: isMalformed ? [] : [domainFact({ name, recordType, isMalformed })],
      object: [event.actor?.path, name, recordType, isMalformed],
      act: { killed: "", denied: "the query was dropped", happened: "the query had left" },
    };
    const isKnown = decision.outcome === PolicyOutcome.ALLOW && !decision.isLearned;
    const found = isMalformed || isKnown ? undefined : dns.takeQuery({ name, recordType, payloadLength }, now);
    return found ? [judged, this.#judgeDnsFinding(event, found, use)] : [judged];
  }

  #judgeDnsFinding(event: Event, { detector, domain, message }: DnsFinding, use: SlotUse): Judged {
    return {
      section: Section.DNS,
      event,
      decision: evaluateDnsDetection(use.policy.dns, detector, message, domain),
      facts: [],
      object: [detector, domain],
      act: { ...NOTHING, happened: "the queries had left" },
    };
  }

  async #judgeFile(container: WatchedContainer, frame: FileFrame, use: SlotUse): Promise<Judged> {
    const { path, newPath } = await pathsOfChange(frame, container.identified.bundle.rootfs);
    const isExecutable = (frame.flags & FileFlag.EXECUTABLE) !== 0;
    const operation = frame.operation as FileOperation;
    const value = { operation, path, newPath, mode: frame.mode, isExecutable };
    const event = this.#eventOf(container, frame, { case: "fileChange", value });
    const processPath = event.actor?.path ?? "";
    const change = { operation, path, newPath, processPath, isExecutable };
    return {
      section: Section.FILESYSTEM,
      event,
      decision: evaluateFile(use.policy.filesystem, change),
      facts: fileFacts(change),
      object: [processPath, operation, path, newPath],
      act: { killed: "", denied: "the open failed with EPERM", happened: "the file had been changed" },
    };
  }

  #judgeSyscall(container: WatchedContainer, frame: SyscallFrame, use: SlotUse): Judged {
    const isCompat = (frame.flags & SyscallFlag.COMPAT) !== 0;
    const used = { name: syscallName(frame.number, isCompat), isCompat };
    const event = this.#eventOf(container, frame, { case: "syscallUse", value: { ...used, number: frame.number } });
    return {
      section: Section.SYSCALL,
      event,
      decision: evaluateSyscall(use.policy.syscall, used),
      facts: [syscallFact(used)],
      object: [used.name, isCompat],
      act: { ...NOTHING, happened: "the system call had been made" },
    };
  }

  #judgeRedirect(container: WatchedContainer, frame: RedirectFrame, use: SlotUse): Judged {
    const { descriptor } = frame;
    const event = this.#eventOf(container, frame, { case: "streamRedirect", value: { descriptor } });
    const { path = "", name = "" } = event.actor ?? {};
    const decision = evaluateRedirect(use.policy.process, {
      path,
      name,
      invokedPath: path,
      contentState: ContentState.UNKNOWN,
      sha256: "",
      parents: [],
      isScript: false,
      ...NOTHING_SPECIAL,
      stream: `its standard ${["input", "output", "error"][descriptor] ?? "stream"} became one`,
    });
    return {
      section: Section.PROCESS,
      event,
      decision,
      facts: [],
      object: ["redirect", path],
      act: { ...NOTHING, happened: "the stream had been redirected", target: frame.actor },
    };
  }

  #judgeContact(container: WatchedContainer, frame: ContactFrame, use: SlotUse): Judged[] {
    const address = addressText(frame.address);
    const contact = { address, port: frame.port, isFailed: frame.isFailed };
    const scan = this.#detectorsOf(container).scan.take(contact, Number(frame.ktimeNs / 1_000_000n));
    if (!scan) return [];
    const { isHorizontal, portCount, addressCount, failedCount, contactCount } = scan;
    const value = { isHorizontal, portCount, addressCount, failedCount, contactCount };
    const event = this.#event(container, frame.ktimeNs, { case: "portScan", value });
    const decision = evaluatePortScan(use.policy.network, scanText(scan), isHorizontal ? String(frame.port) : address);
    const act = { ...NOTHING, happened: "the ports had been tried" };
    return [{ section: Section.NETWORK, event, decision, facts: [], object: ["port_scan", isHorizontal], act }];
  }

  #judgeRefused(container: WatchedContainer, frame: RefusedFrame, use: SlotUse): Judged {
    const path = escapeBytes(frame.path);
    const act = { ...NOTHING, denied: frame.isExec ? "the exec failed with EPERM" : "the open failed with EPERM" };
    const [actor, ...ancestors] = this.#deps.processes.ancestors(frame.pid, 0n);
    if (frame.isExec) {
      const process = create(ProcessSchema, {
        pid: frame.pid,
        path,
        name: baseName(path),
        contentState: ContentState.UNKNOWN,
      });
      const event = this.#event(
        container,
        frame.ktimeNs,
        { case: "exec", value: { process, ancestors: [...(actor ? [actor] : []), ...ancestors] } },
        process,
      );
      const decision = evaluateProcess(use.policy.process, {
        path,
        name: baseName(path),
        invokedPath: path,
        contentState: ContentState.UNCHANGED,
        sha256: "",
        parents: actor ? [actor.path] : [],
        isScript: false,
        ...NOTHING_SPECIAL,
      });
      return {
        section: Section.PROCESS,
        event,
        decision: notLearned(decision),
        facts: [],
        object: ["refused", path],
        act,
      };
    }
    const change = { operation: FileOperation.WRITE, path, newPath: "", isExecutable: false };
    const event = this.#event(container, frame.ktimeNs, { case: "fileChange", value: change }, actor, ancestors);
    const decision = evaluateFile(use.policy.filesystem, { ...change, processPath: actor?.path ?? "" });
    return {
      section: Section.FILESYSTEM,
      event,
      decision: notLearned(decision),
      facts: [],
      object: ["refused", path],
      act,
    };
  }
}

/** What did not happen teaches nothing. */
function notLearned(decision: Decision): Decision {
  decision.isLearned = false;
  decision.isHeld = false;
  return decision;
}

/** The section that an event's loss is counted in. */
export function sectionOfFrame(kind: ContainerFrame["kind"]): Section {
  switch (kind) {
    case "connect":
    case "listen":
    case "socket":
    case "contact":
      return Section.NETWORK;
    case "dns":
      return Section.DNS;
    case "file":
    case "refused":
      return Section.FILESYSTEM;
    case "syscall":
      return Section.SYSCALL;
    default:
      return Section.PROCESS;
  }
}
