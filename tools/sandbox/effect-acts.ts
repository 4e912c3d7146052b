import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { fromJson, type JsonValue, type MessageInitShape } from "@bufbuild/protobuf";
import type { Audit } from "#gen/gabion/audit/v1/audit_pb.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { IntelSetSchema } from "#gen/gabion/intel/v1/intel_pb.ts";
import { FactSchema, LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import type { Delivery, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { until } from "../demo/until.ts";
import type { AgentRig } from "./agent-rig.ts";
import { testProgram } from "./programs.ts";
import type { CommandResult, SandboxContainer } from "./runc.ts";

const DATA = resolve(import.meta.dirname, "../../agent/testdata");
const API_SERVER = "10.96.0.1";
const ADDRESSES = [
  ...["203.0.113.5", "10.1.2.3", "2001:db8::5", "10.0.0.53", "10.0.0.54"],
  ...["2001:db8::53", API_SERVER, "169.254.169.254", "fd00:ec2::254", "198.51.100.53", "2001:db8::54"],
];
/** Who answers look-ups: those that the container is given, and others. */
const GIVEN = ["10.0.0.53", "10.0.0.54", "2001:db8::53"];
const RESOLVERS = ["10.0.0.53", "2001:db8::53", "198.51.100.53", "2001:db8::54"];
/** A program that every test may have told. */
export const MARKER = "/opt/marker";

export type EffectName = Exclude<keyof typeof Effect, "UNSPECIFIED">;

/** What an act comes to under an effect. */
export interface Cell {
  readonly says: string | null;
  readonly ends?: boolean;
  readonly delivery?: keyof typeof Delivery;
  readonly applied?: EffectName;
  readonly note?: string;
}

/** An act in a container with the rule that names it, as the golden tables have it. */
export interface Act {
  readonly name: string;
  readonly section: keyof typeof Section;
  readonly detector?: string;
  readonly state?: keyof typeof LearningState;
  readonly facts?: readonly JsonValue[];
  readonly intel?: JsonValue;
  readonly user?: string;
  readonly rule: JsonValue;
  readonly act: readonly string[];
  readonly object: string;
  readonly cells: Readonly<Partial<Record<EffectName, Cell>>>;
}

/** All acts of the golden tables: those of the sections, and those of their detectors. */
export function effectActs(): Act[] {
  const sha256 = createHash("sha256").update(testProgram("netprobe")).digest();
  return ["effects.json", "detector-effects.json"].flatMap((name) => {
    const text = readFileSync(resolve(DATA, name), "utf8")
      .replaceAll("BASE64_SHA256_OF_PROBE", sha256.toString("base64"))
      .replaceAll("SHA256_OF_PROBE", sha256.toString("hex"));
    return (JSON.parse(text) as { acts: Act[] }).acts;
  });
}

/** The sections of a rule written as JSON; who it is is the rig's to say. */
export function sections(json: JsonValue): MessageInitShape<typeof RuleSchema> {
  const { process, network, dns, filesystem, syscall } = fromJson(RuleSchema, json);
  const all = Object.entries({ process, network, dns, filesystem, syscall });
  return Object.fromEntries(all.filter(([, section]) => section !== undefined));
}

/** The text with the effect put in; in rules it is the name of an enumeration's value, and those are left alone. */
function withEffect<T>(value: T, effect: string): T {
  return JSON.parse(JSON.stringify(value).replaceAll(/EFFECT(?!_)/g, effect)) as T;
}

/** True for an audit of what an act did, by whoever has to find it. */
export function isOf(
  { section, object, detector }: Act,
  { section: of, message, container, decision }: Audit,
): boolean {
  const isFound = detector === undefined || decision?.detector === detector;
  return isFound && of === Section[section] && message.includes(object) && container !== undefined;
}

/** Gives all containers the model, intelligence and rule of an act. */
export async function bringIntoForce(rig: AgentRig, act: Act, effect: EffectName): Promise<void> {
  const { files, domains, prefixes } = fromJson(IntelSetSchema, act.intel ?? {});
  await rig.intel({ files, domains, prefixes });
  const facts = (act.facts ?? []).map((fact) => fromJson(FactSchema, fact));
  await rig.activate(LearningState[act.state ?? "LEARNING"], facts);
  await rig.rules({ name: act.name, ...sections(withEffect(act.rule, `EFFECT_${effect}`)) });
}

/** Acts in a container. */
export function perform(container: SandboxContainer, act: Act, effect: EffectName): Promise<CommandResult> {
  return container.execAs(act.user ?? "0:0", ...withEffect(act.act, effect));
}

/** Starts a container in which all acts can be tried, with the servers that they speak to. */
export async function startActing(rig: AgentRig, id: string): Promise<SandboxContainer> {
  const file = (name: Parameters<typeof testProgram>[0], mode = 0o755) => ({ content: testProgram(name), mode });
  const text = { content: "x\n", mode: 0o644 };
  const effects = ["DISABLE", "ALERT", "PREVENT", "BLOCK"];
  const names = effects.flatMap((name) => ["", "-2"].map((end) => [`/var/data/${name}${end}`, text] as const));
  const container = rig.sandbox.start(id, {
    args: ["/bin/sh", "-c", "while true; do /bin/sleep 1; done"],
    programs: ["/bin/sh", "/bin/sleep", "/bin/rm", "/bin/mv", "/bin/cp", "/bin/chmod"],
    capabilities: ["CAP_NET_RAW"],
    env: [`KUBERNETES_SERVICE_HOST=${API_SERVER}`],
    files: {
      "/opt/netprobe": file("netprobe"),
      "/opt/bad": file("nothing"),
      "/opt/xmrig": file("netprobe"),
      "/opt/nmap": file("netprobe"),
      "/opt/changed": file("netprobe"),
      "/opt/job.sh": { content: "#!/bin/sh\necho job\n", mode: 0o755 },
      "/opt/memfd": file("memfd"),
      "/opt/setuid": file("netprobe", 0o4755),
      [MARKER]: file("nothing"),
      "/etc/passwd": text,
      "/etc/shadow": text,
      "/etc/hosts": text,
      "/etc/resolv.conf": { content: GIVEN.map((address) => `nameserver ${address}\n`).join(""), mode: 0o644 },
      "/etc/ld.so.preload": { content: "", mode: 0o644 },
      "/root/.ssh/authorized_keys": text,
      ...Object.fromEntries(names),
    },
  });
  await rig.watched(id);
  await container.addAddresses(...ADDRESSES);
  await container.allowEchoSockets();
  for (const resolver of RESOLVERS) {
    void container.exec("/opt/netprobe", "dns-serve", resolver, "203.0.113.5");
  }
  void container.exec("/opt/netprobe", "serve", "10.0.0.54", "53", "300");
  await until("the resolvers", 10_000, async () => {
    const answers = await Promise.all([
      ...RESOLVERS.map((resolver) => container.exec("/opt/netprobe", "dns", "udp", resolver, "ready.example", "1")),
      container.exec("/opt/netprobe", "tcp", "10.0.0.54", "53"),
    ]);
    return answers.every(({ output }) => output.trim() === "ok") || undefined;
  });
  return container;
}
