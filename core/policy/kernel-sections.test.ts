import { create } from "@bufbuild/protobuf";
import fc from "fast-check";
import { expect, test } from "vitest";
import { FileOperation, Transport } from "#gen/gabion/event/v1/event_pb.ts";
import { IntelSetSchema } from "#gen/gabion/intel/v1/intel_pb.ts";
import {
  DomainFactSchema,
  type Fact,
  FactSchema,
  FileFactSchema,
  LearningState,
  ListenFactSchema,
  OutboundFactSchema,
  SyscallFactSchema,
} from "#gen/gabion/model/v1/model_pb.ts";
import { type Decision, Effect, Outcome } from "#gen/gabion/policy/v1/policy_pb.ts";
import {
  DnsSectionSchema,
  FilesystemSectionSchema,
  NetworkSectionSchema,
  SyscallSectionSchema,
} from "#gen/gabion/rule/v1/rule_pb.ts";
import { compileIntel, type Intel } from "../intel/intel-set.ts";
import { isWithin, mappedAddress, parsePrefix } from "../matching/address.ts";
import { factId } from "../model/fact.ts";
import { compileFamilies } from "../model/item-pattern.ts";
import { eventOfFact } from "../model/journal.ts";
import { syscallNumber } from "../syscall/names.ts";
import { compileDnsPolicy, domainFact, evaluateDnsQuery } from "./dns-policy.ts";
import { compileFilePolicy, directoryOf, evaluateFile, fileFacts } from "./file-policy.ts";
import { encryptedDnsEntries, resolverSlot, toDnsSlot } from "./kernel-dns.ts";
import { type KernelAction, type KernelEntry, STRENGTH, withoutHiding } from "./kernel-entry.ts";
import { toFileSlot } from "./kernel-file.ts";
import { intelEntries } from "./kernel-intel.ts";
import { portPrefixes, toNetworkSlot } from "./kernel-network.ts";
import { toSyscallSlot } from "./kernel-syscall.ts";
import {
  type CompiledNetworkPolicy,
  compileNetworkPolicy,
  connectFacts,
  evaluateConnect,
  evaluateListen,
  listenFact,
} from "./network-policy.ts";

/** The kernel's maps keep one value for a key: what is put last. Of prefixes the longest that covers decides. */
function findPrefix(entries: readonly KernelEntry[], kind: string, bytes: Uint8Array): KernelEntry | undefined {
  const found = entries
    .filter((e) => "bytes" in e && e.kind === kind && isWithin({ bytes: e.bytes, length: e.prefix }, bytes))
    .sort((a, b) => ("bytes" in a && "bytes" in b ? a.prefix - b.prefix : 0));
  return found.at(-1);
}

function lookUpPrefix(entries: readonly KernelEntry[], kind: string, bytes: Uint8Array): KernelAction | undefined {
  return findPrefix(entries, kind, bytes)?.action;
}

function lookUpText(entries: readonly KernelEntry[], kind: string, text: string): KernelAction | undefined {
  return entries.findLast((e) => e.kind === kind && "text" in e && e.text === text)?.action;
}

/** Denied, asked, allowed: `take_entry` of policy.bpf.h. */
function match(found: readonly (KernelAction | undefined)[]): KernelAction | undefined {
  const all = found.filter((action) => action !== undefined);
  const denied = all.filter((action) => STRENGTH[action] > STRENGTH.ask).sort((a, b) => STRENGTH[b] - STRENGTH[a])[0];
  return denied ?? (all.includes("ask") ? "ask" : all.includes("allow") ? "allow" : undefined);
}

const STRONG: Partial<Record<Effect, KernelAction>> = { [Effect.PREVENT]: "prevent", [Effect.BLOCK]: "block" };

/** By which id a fact counts in a model: that of its family where it has one. */
function idIn(model: readonly Fact[]): (fact: Fact) => string {
  const families = compileFamilies(model);
  return (fact) => factId(families.of(fact) ?? fact);
}

/**
 * The kernel never says anything that the policy would not say. What teaches passes only by an entry of the model that
 * says which of the ids it counts for.
 */
function expectAgreement(
  action: KernelAction,
  decision: Decision,
  by?: {
    readonly entry: KernelEntry | undefined;
    readonly ids: readonly string[];
    readonly idOf?: (fact: Fact) => string;
  },
): void {
  if (action === "allow") expect(decision).toMatchObject({ outcome: Outcome.ALLOW, isAudited: false, isHeld: false });
  if (action === "allow" && decision.isLearned) {
    const origin = by?.entry?.origin;
    expect(origin?.kind).toBe("item");
    const fact = origin?.kind === "item" ? create(FactSchema, { kind: origin.fact }) : create(FactSchema);
    expect(by?.ids).toContain((by?.idOf ?? factId)(fact));
    // What has no event of its own would be counted for nobody.
    expect(eventOfFact(fact)).toBeDefined();
  }
  if (action === "audit") expect(decision).toMatchObject({ isAudited: true, effectApplied: Effect.ALERT });
  if (action === "prevent" || action === "block") expect(STRONG[decision.effectApplied as Effect]).toBe(action);
}

const effect = fc.constantFrom(Effect.ALERT, Effect.PREVENT, Effect.BLOCK, Effect.DISABLE);
const state = fc.constantFrom(LearningState.LEARNING, LearningState.DRY_RUN, LearningState.ACTIVE);
const transport = fc.constantFrom(Transport.TCP, Transport.UDP);
const port = fc.constantFrom(0, 1, 53, 10250, 6443, 80, 443, 853, 8080, 32768, 40000, 65535);
const range = fc.tuple(port, port).map(([a, b]) => ({ first: Math.min(a, b), last: Math.max(a, b) }));
const prefix = fc.constantFrom(
  "203.0.113.0/24",
  "203.0.113.5",
  "10.0.0.0/8",
  "0.0.0.0/0",
  "2001:db8::/32",
  "::/0",
  "::1",
);
const address = fc.constantFrom(
  "169.254.169.254",
  "203.0.113.5",
  "198.51.100.1",
  "10.1.2.3",
  "127.0.0.1",
  "0.0.0.0",
  "2001:db8::5",
  "fd00::1",
);
const INTERNET = new Set(["203.0.113.5", "198.51.100.1", "2001:db8::5"]);
const list = fc.record({
  listeningPorts: fc.array(range, { maxLength: 2 }),
  outboundPorts: fc.array(range, { maxLength: 2 }),
  outboundAddresses: fc.array(prefix, { maxLength: 3 }),
});
const PROTOCOL = { [Transport.TCP]: 6, [Transport.UDP]: 17, [Transport.UNSPECIFIED]: 0 };

const networkPolicy = fc
  .record({
    effect,
    state,
    allowed: list,
    denied: list,
    detectors: fc.constantFrom<Record<string, { effect?: Effect; exceptions?: string[] }>>(
      {},
      { metadata_service: {} },
      { kubernetes_api: {} },
      { kubernetes_api: { effect: Effect.ALERT } },
      { kubernetes_api: { effect: Effect.PREVENT } },
      { lateral_movement: {} },
      { lateral_movement: { effect: Effect.BLOCK }, kubernetes_api: { effect: Effect.ALERT } },
      { lateral_movement: { effect: Effect.PREVENT, exceptions: ["10.1.2.3"] }, metadata_service: {} },
      { lateral_movement: { effect: Effect.ALERT }, intel: {} },
      { intel: {} },
      { intel: { effect: Effect.BLOCK } },
      { intel: { effect: Effect.PREVENT, exceptions: ["203.0.113.5"] } },
      { intel: { effect: Effect.ALERT }, metadata_service: {} },
    ),
    bad: fc.array(fc.record({ value: prefix, isException: fc.boolean() }), { maxLength: 3 }),
    listening: fc.array(fc.record({ transport, port }), { maxLength: 3 }),
    outbound: fc.array(
      fc.record({ transport, port, address: fc.constantFrom("", "", "198.51.100.1", "10.1.2.3", "10.1.2.0/24") }),
      { maxLength: 3 },
    ),
  })
  .map((p) =>
    compileNetworkPolicy({
      section: create(NetworkSectionSchema, {
        effect: p.effect,
        allowed: p.allowed,
        denied: p.denied,
        detectors: p.detectors,
      }),
      hasRule: true,
      listening: p.listening.map((fact) => create(ListenFactSchema, fact)),
      outbound: p.outbound.map((fact) => create(OutboundFactSchema, fact)),
      processes: [],
      kubernetesApi: "10.1.2.3",
      intel: compileIntel(create(IntelSetSchema, { revision: 1n, prefixes: p.bad }), 0),
      state: p.state,
    }),
  );

function outboundOf({ outbound }: CompiledNetworkPolicy): Fact[] {
  return outbound.map((value) => create(FactSchema, { kind: { case: "outbound", value } }));
}

/** What `decide_connect` of network.bpf.c does, in the same order. */
function decideConnect(
  entries: readonly KernelEntry[],
  defaults: ReturnType<typeof toNetworkSlot>["defaults"],
  to: Destination,
): { action: KernelAction; entry?: KernelEntry | undefined } {
  const byPort = (kind: string) => lookUpPrefix(entries, kind, to.portBytes);
  const byAddress = lookUpPrefix(entries, "address_denied", to.bytes);
  const internal = () => byPort("port_internal") ?? (to.isLoopback ? undefined : byPort("port_lateral"));
  const port = to.isInternet ? byPort("port_denied") : byAddress === undefined ? internal() : undefined;
  const first = match([byAddress, port]);
  if (first && first !== "ask") return { action: first };
  const isAskedFirst = byAddress === "ask" || (!to.isInternet && port === "ask");
  const known = notDenied(entries, defaults, to, isAskedFirst);
  return first === "ask" && known.action === "allow" ? { action: "ask" } : known;
}

/** The allowed list, what is bad, and the rest of `decide_connect` there. */
function notDenied(
  entries: readonly KernelEntry[],
  defaults: ReturnType<typeof toNetworkSlot>["defaults"],
  to: Destination,
  isAskedFirst: boolean,
): { action: KernelAction; entry?: KernelEntry | undefined } {
  const inRule = findPrefix(entries, "address_allowed", to.bytes);
  const allowed = inRule ?? (to.isInternet ? findPrefix(entries, "port_allowed", to.portBytes) : undefined);
  if (allowed) return { action: allowed.action, entry: allowed };
  const isBad = findPrefix(entries, "address_bad", to.bytes) && !findPrefix(entries, "address_excepted", to.bytes);
  if (isBad) return { action: isAskedFirst ? "ask" : defaults.badAddress };
  return knownDestination(entries, defaults, to);
}

interface Destination {
  readonly bytes: Uint8Array;
  readonly portBytes: Uint8Array;
  readonly isInternet: boolean;
  readonly isLoopback: boolean;
  readonly isDirect: boolean;
}

/** `decide_known` there, of what the allowed list does not name. */
function knownDestination(
  entries: readonly KernelEntry[],
  defaults: ReturnType<typeof toNetworkSlot>["defaults"],
  to: Destination,
): { action: KernelAction; entry?: KernelEntry | undefined } {
  const byPort = (kind: string) => (to.isInternet ? findPrefix(entries, kind, to.portBytes) : undefined);
  if (to.isLoopback) return { action: "allow" };
  if (!to.isInternet) {
    const item = entries.findLast(
      (e) =>
        e.kind === "destination_item" &&
        Buffer.compare(e.address, to.bytes) === 0 &&
        Buffer.compare(Uint8Array.of(e.protocol, e.port >> 8, e.port & 0xff), to.portBytes) === 0,
    );
    const isAsked = defaults.internal !== "allow" && item;
    return isAsked ? { action: item.action, entry: item } : { action: defaults.internal };
  }
  const entry = byPort("port_learned");
  if (!entry) return { action: defaults.connect };
  const isUnknown = to.isDirect && !lookUpPrefix(entries, "direct", to.bytes);
  return isUnknown ? { action: defaults.direct } : { action: entry.action, entry };
}

const RESOLVERS_ASKED = compileDnsPolicy({
  section: create(DnsSectionSchema, { effect: Effect.ALERT, detectors: { encrypted_dns: {} } }),
  hasRule: true,
  items: [],
  state: LearningState.ACTIVE,
});

/** With what the kernel has besides: intelligence, in a slot of its own, and resolvers that the DNS section asks about. */
function inKernel(own: readonly KernelEntry[], intel: Intel | undefined, hasResolvers: boolean): KernelEntry[] {
  const all = hasResolvers ? [...own, ...encryptedDnsEntries(RESOLVERS_ASKED)] : own;
  return [...withoutHiding(all), ...(intel ? intelEntries(intel) : [])];
}

test("connections: the kernel says what the policy says", () => {
  fc.assert(
    fc.property(networkPolicy, transport, port, address, fc.boolean(), (policy, protocol, to, where, direct) => {
      const isInternet = INTERNET.has(where);
      const isLoopback = where === "127.0.0.1" || where === "0.0.0.0";
      const parsed = parsePrefix(where);
      if (!parsed) throw new Error(where);
      const isDirect = isInternet && direct;
      const event = {
        transport: protocol,
        address: where.includes(".") ? parsed.bytes.subarray(12) : parsed.bytes,
        port: to,
        domain: "",
        isInternet,
        isLoopback,
        isDirect,
      };
      const decision = evaluateConnect(policy, event);
      const { entries: own, defaults, intel } = toNetworkSlot(policy);
      const entries = inKernel(own, intel, direct);
      const bytes = mappedAddress(parsed.bytes);
      const portBytes = Uint8Array.of(PROTOCOL[protocol], to >> 8, to & 0xff);
      const { action, entry } = decideConnect(entries, defaults, {
        bytes,
        portBytes,
        isInternet,
        isLoopback,
        isDirect,
      });
      // A look-up or loopback in a section that is off or learns teaches nothing: allowing it unasked loses nothing.
      if (action === "allow" && isLoopback) expect(decision.outcome).toBe(Outcome.ALLOW);
      else {
        const idOf = idIn(outboundOf(policy));
        const facts = connectFacts(event);
        // No entry counts for two facts at once.
        expectAgreement(action, decision, { entry, ids: facts.length === 1 ? facts.map(idOf) : [], idOf });
      }
    }),
    { numRuns: 20_000 },
  );
});

test("resolvers: the kernel refuses who was not given only where the model is active, and nobody where none is known", () => {
  const slot = (effect: Effect, state: LearningState, resolvers: readonly string[]) => {
    const detectors = { foreign_resolver: { effect, exceptions: ["192.0.2.0/28"] } };
    const section = create(DnsSectionSchema, { effect: Effect.ALERT, detectors });
    const policy = compileDnsPolicy({ section, hasRule: true, items: [], state, resolvers });
    const { entries, action } = resolverSlot(policy);
    return { action, own: entries.length };
  };
  const given = ["10.96.0.10", "fd00::10"];
  const { ACTIVE, DRY_RUN, LEARNING } = LearningState;
  expect(slot(Effect.PREVENT, ACTIVE, given)).toEqual({ action: "prevent", own: 3 });
  expect(slot(Effect.BLOCK, ACTIVE, given)).toEqual({ action: "block", own: 3 });
  expect(slot(Effect.ALERT, ACTIVE, given)).toEqual({ action: "ask", own: 3 });
  expect(slot(Effect.BLOCK, DRY_RUN, given)).toEqual({ action: "ask", own: 3 });
  // What is not audited need not be told.
  expect(slot(Effect.BLOCK, LEARNING, given)).toEqual({ action: "allow", own: 0 });
  expect(slot(Effect.DISABLE, ACTIVE, given)).toEqual({ action: "allow", own: 0 });
  expect(slot(Effect.BLOCK, ACTIVE, [])).toEqual({ action: "allow", own: 0 });
});

test("listening ports: the kernel says what the policy says", () => {
  fc.assert(
    fc.property(networkPolicy, transport, port, fc.boolean(), (policy, protocol, at, chosen) => {
      const isEphemeral = chosen || at >= 32768;
      const { entries, defaults } = toNetworkSlot(policy);
      const look = (kind: string, number: number) =>
        findPrefix(entries, kind, Uint8Array.of(PROTOCOL[protocol], number >> 8, number & 0xff));
      const entry =
        look("listen_denied", at) ??
        look("listen_allowed", at) ??
        (isEphemeral ? look("listen_allowed", 0) : undefined);
      const event = { transport: protocol, port: at, isEphemeral };
      // A port of the range that the kernel chooses from may have been named by itself, by a person.
      const ids = [listenFact(event), listenFact({ ...event, isEphemeral: false })].map(factId);
      const by = { entry, ids };
      expectAgreement(entry?.action ?? defaults.listen, evaluateListen(policy, event), by);
    }),
    { numRuns: 20_000 },
  );
});

const names = ["evil.example", "a.evil.example", "good.test", "x.y.good.test", "example", "co.uk", "dns.google"];
const patterns = ["evil.example", "*.evil.example", "*.good.test", "*.example", "good.test", "dns.google", "*.google"];

test("look-ups: the kernel says what the policy says", () => {
  fc.assert(
    fc.property(
      effect,
      state,
      fc.array(fc.constantFrom(...patterns), { maxLength: 3 }),
      fc.array(fc.constantFrom(...patterns), { maxLength: 3 }),
      fc.array(
        fc
          .record({
            name: fc.constantFrom(...names, "*.evil.example", "*.y.good.test"),
            recordType: fc.constantFrom(1, 16),
          })
          .map((item) => ({ ...item, isPattern: item.name.includes("*") })),
        { maxLength: 3 },
      ),
      fc.array(fc.record({ value: fc.constantFrom(...names, "example", "test"), isException: fc.boolean() }), {
        maxLength: 3,
      }),
      fc.constantFrom<Record<string, { effect?: Effect; exceptions?: string[] }>>(
        {},
        { intel: {} },
        { intel: { effect: Effect.BLOCK } },
        { intel: { effect: Effect.ALERT } },
        { intel: { effect: Effect.PREVENT, exceptions: ["*.good.test"] } },
        { intel: { effect: Effect.PREVENT }, encrypted_dns: {} },
        { intel: { effect: Effect.PREVENT }, encrypted_dns: { effect: Effect.ALERT } },
        { encrypted_dns: { effect: Effect.BLOCK } },
        { intel: {}, encrypted_dns: { effect: Effect.PREVENT, exceptions: ["dns.google"] } },
      ),
      fc.constantFrom(...names),
      fc.constantFrom(1, 16, 28),
      (e, s, allowed, denied, items, bad, detectors, name, recordType) => {
        const policy = compileDnsPolicy({
          section: create(DnsSectionSchema, { effect: e, allowed, denied, detectors }),
          hasRule: true,
          items: items.map((item) => create(DomainFactSchema, item)),
          intel: compileIntel(create(IntelSetSchema, { revision: 1n, domains: bad }), 0),
          state: s,
        });
        const { entries, defaults, intel } = toDnsSlot(policy);
        const suffixes = [...name.matchAll(/\./g)].map(({ index }) => name.slice(index + 1));
        const named = [
          ...suffixes.map((suffix) => lookUpText(entries, "suffix", suffix)),
          lookUpText(entries, "domain", name),
        ];
        const found = match(named);
        const item = entries.find((x) => x.kind === "domain_item" && x.text === name && x.recordType === recordType);
        // The kernel has intelligence in a slot of its own.
        const inIntel = [name, ...suffixes].map((text) =>
          lookUpText(intel ? intelEntries(intel) : [], "domain_bad", text),
        );
        const isBad = inIntel.includes("ask") && !inIntel.includes("allow");
        const isNamed = named.includes("allow") || (found !== undefined && found !== "ask");
        const known = item && found === "ask" ? "ask" : item?.action;
        const action = isNamed && found ? found : isBad ? defaults.badDomain : (known ?? found ?? defaults.domain);
        const event = { name, recordType, isMalformed: false };
        const by = { entry: isNamed ? undefined : item, ids: [factId(domainFact(event))] };
        expectAgreement(action, evaluateDnsQuery(policy, event), by);
      },
    ),
    { numRuns: 20_000 },
  );
});

const files = ["/etc/passwd", "/etc/hosts", "/var/a/b", "/var/a/c/d", "/root/.ssh/id", "/home/x/.ssh/k", "/tmp/x"];
const listed = ["/etc/passwd", "/etc/*", "/var/a/*", "/var/*/b", "*"];

test("files: the kernel says what the policy says, and never refuses afterwards", () => {
  fc.assert(
    fc.property(
      effect,
      state,
      fc.array(fc.constantFrom(...listed), { maxLength: 2 }),
      fc.array(fc.constantFrom(...listed), { maxLength: 2 }),
      fc.array(fc.constantFrom("/etc", "/var/a", "/tmp", "/var/*", "/var/a/*"), { maxLength: 2 }),
      fc.subarray(["changed_binary", "account_files", "ssh_files"]),
      fc.constantFrom(...files),
      fc.boolean(),
      (e, s, allowed, denied, directories, detectors, path, isExecutable) => {
        const policy = compileFilePolicy({
          section: create(FilesystemSectionSchema, {
            effect: e,
            allowed,
            denied,
            detectors: Object.fromEntries(detectors.map((name) => [name, {}])),
          }),
          hasRule: true,
          items: directories.map((d) =>
            create(FileFactSchema, { path: d, processPath: "/bin/sh", isPattern: d.includes("*") }),
          ),
          state: s,
        });
        const { entries, defaults } = toFileSlot(policy);
        const folders = [...path.matchAll(/\//g)].map(({ index }) => path.slice(0, index + 1));
        const strongest = (kind: string, text: string) =>
          match(entries.filter((x) => x.kind === kind && "text" in x && x.text === text).map(({ action }) => action));
        const found = match([strongest("file_path", path), ...folders.map((f) => strongest("file_directory", f))]);
        const item = entries.find((x) => x.kind === "file_item" && x.directory === `${directoryOf(path)}/`);
        const decide = (): KernelAction => {
          if (found && found !== "allow") return found;
          if (isExecutable && defaults.executable !== "allow") return "ask";
          return found ?? item?.action ?? defaults.file;
        };
        const action = decide();
        const change = { operation: FileOperation.WRITE, path, newPath: "", processPath: "/bin/sh", isExecutable };
        const decision = evaluateFile(policy, change);
        expect(action).not.toBe("prevent");
        // What is denied under prevent is refused by the file system watch; behind it the kernel only tells.
        if (action === "audit") expect(decision.outcome).toBe(Outcome.DENIAL);
        else expectAgreement(action, decision, { entry: found ? undefined : item, ids: fileFacts(change).map(factId) });
      },
    ),
    { numRuns: 20_000 },
  );
});

test.each([
  { path: "/etc", newPath: "/old", isDenied: true },
  { path: "/tmp/x", newPath: "/etc", isDenied: true },
  { path: "/var/a", newPath: "/var/b", isDenied: true },
  { path: "/home/x/.keys", newPath: "/tmp/k", isDenied: true },
  { path: "/etc.old", newPath: "/tmp/e", isDenied: false },
  { path: "/etc/hosts", newPath: "/etc/hosts2", isDenied: false },
])("files: a folder moved from $path to $newPath takes along, or hides, what a list names", (moved) => {
  const policy = compileFilePolicy({
    section: create(FilesystemSectionSchema, {
      effect: Effect.ALERT,
      denied: ["/etc/passwd", "/var/a/*", "/home/*/.keys/*"],
    }),
    hasRule: true,
    items: [],
    state: LearningState.ACTIVE,
  });
  const { isDenied, ...paths } = moved;
  const change = { operation: FileOperation.RENAME, ...paths, processPath: "/bin/mv", isExecutable: false };
  expect(evaluateFile(policy, change).outcome === Outcome.DENIAL).toBe(isDenied);
  const written = { ...change, operation: FileOperation.WRITE, newPath: "" };
  expect(evaluateFile(policy, written).outcome).toBe(Outcome.DEVIATION);
});

test("system calls: denied ones act in every state, allowed and learned ones are known by number", () => {
  const section = create(SyscallSectionSchema, { effect: Effect.BLOCK, allowed: ["ptrace"], denied: ["mount"] });
  const items = [
    create(SyscallFactSchema, { name: "read" }),
    create(SyscallFactSchema, { name: "getpid", isCompat: true }),
  ];
  const slot = (s: LearningState) =>
    toSyscallSlot({
      section,
      hasRule: true,
      items,
      state: s,
      effect: Effect.BLOCK,
      denied: new Set(["mount"]),
      allowed: new Set(["ptrace"]),
      known: new Set(),
    });
  const number = (name: string, isCompat = false) => (syscallNumber(name, isCompat) ?? -1) + (isCompat ? 512 : 0);
  const active = slot(LearningState.ACTIVE);
  expect(active.defaults).toEqual({ syscall: "block", syscallDenied: "block" });
  expect([...active.denied].sort()).toEqual([number("mount"), number("mount", true)].sort());
  expect(active.allowed).toEqual([number("ptrace"), number("ptrace", true), number("read"), number("getpid", true)]);
  expect(slot(LearningState.LEARNING)).toMatchObject({
    allowed: [],
    defaults: { syscall: "ask", syscallDenied: "block" },
  });
});

test("a range of ports is covered exactly by its prefixes", () => {
  fc.assert(
    fc.property(fc.nat(65535), fc.nat(65535), fc.nat(65535), (a, b, probe) => {
      const [first, last] = a < b ? [a, b] : [b, a];
      const prefixes = portPrefixes(first, last);
      const isCovered = prefixes.some(({ port: at, length }) => probe >> (16 - length) === at >> (16 - length));
      expect(isCovered).toBe(probe >= first && probe <= last);
      expect(prefixes.length).toBeLessThanOrEqual(30);
    }),
    { numRuns: 5_000 },
  );
});

test("a question about one address does not hide that the range around it is denied", () => {
  const entry = (text: string, action: KernelAction): KernelEntry => {
    const { bytes, length } = parsePrefix(text) ?? { bytes: new Uint8Array(16), length: 0 };
    return { kind: "address_denied", bytes, prefix: length, action };
  };
  const kept = withoutHiding([entry("1.1.1.1", "ask"), entry("9.9.9.9", "ask"), entry("1.0.0.0/8", "prevent")]);
  expect(kept.map(({ action }) => action)).toEqual(["ask", "prevent"]);
});
