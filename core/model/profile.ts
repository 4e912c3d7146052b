import { stringify } from "yaml";
import { Transport } from "#gen/gabion/event/v1/event_pb.ts";
import type { Fact } from "#gen/gabion/model/v1/model_pb.ts";
import { toSeccompProfile, withoutName } from "../syscall/seccomp.ts";
import { EPHEMERAL_FIRST, EPHEMERAL_LAST } from "./item-pattern.ts";
import { valuesOf } from "./model-rule.ts";

/** A model written for another mechanism. */
export interface Profile {
  readonly document: string;
  /** What of the model it does not express, for a person. */
  readonly unexpressed: readonly string[];
}

function count(number: number, what: string): string[] {
  return number === 0 ? [] : [`${number} ${what}`];
}

/** The learned system calls as a seccomp profile of the OCI runtime specification. */
export function seccompProfile(facts: readonly Fact[]): Profile {
  const calls = valuesOf(facts, "syscall");
  const unnamed = withoutName(calls).map(
    (name) => `the call \`${name}\` has no name in this version's table and is left out`,
  );
  const unexpressed = [
    ...(calls.length === 0 ? ["the model has learned no system calls: the container would not start"] : []),
    ...unnamed,
    "arguments of system calls: the model does not learn them",
  ];
  return { document: `${JSON.stringify(toSeccompProfile(calls), null, 2)}\n`, unexpressed };
}

const PROTOCOLS: Partial<Record<Transport, string>> = { [Transport.TCP]: "TCP", [Transport.UDP]: "UDP" };
/** What is not the Internet: a NetworkPolicy has no word for that, so these are taken out of `0.0.0.0/0`. */
const PRIVATE_V4 = ["10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"];
const PRIVATE_V6 = ["fc00::/7", "fe80::/10", "::1/128"];

function port(transport: Transport, number: number): object[] {
  const protocol = PROTOCOLS[transport];
  if (protocol === undefined) return [];
  return [number === 0 ? { protocol, port: EPHEMERAL_FIRST, endPort: EPHEMERAL_LAST } : { protocol, port: number }];
}

function cidr(address: string): string {
  if (address.includes("/")) return address;
  return address.includes(":") ? `${address}/128` : `${address}/32`;
}

/** A name that Kubernetes takes: lower-case letters, digits and hyphens. */
function resourceName(text: string): string {
  return (
    text
      .toLowerCase()
      .replaceAll(/[^a-z0-9]+/g, "-")
      .replaceAll(/^-+|-+$/g, "")
      .slice(0, 63) || "workload"
  );
}

/** The learned ports and addresses as a Kubernetes NetworkPolicy. */
export function networkPolicy(
  facts: readonly Fact[],
  scope: { readonly namespace: string; readonly workload: string },
): Profile {
  const name = resourceName(scope.workload.split("/").at(-1) ?? "");
  const outbound = valuesOf(facts, "outbound");
  const internet = outbound.filter(({ address }) => address === "").flatMap((fact) => port(fact.transport, fact.port));
  // A rule without ports would mean all of them.
  const portless = outbound.filter((fact) => port(fact.transport, fact.port).length === 0);
  const within = outbound
    .filter((fact) => fact.address !== "" && !portless.includes(fact))
    .map((fact) => ({ to: [{ ipBlock: { cidr: cidr(fact.address) } }], ports: port(fact.transport, fact.port) }));
  const anywhere = [
    { ipBlock: { cidr: "0.0.0.0/0", except: PRIVATE_V4 } },
    { ipBlock: { cidr: "::/0", except: PRIVATE_V6 } },
  ];
  const domains = valuesOf(facts, "domain");
  const dns = {
    ports: [
      { protocol: "UDP", port: 53 },
      { protocol: "TCP", port: 53 },
    ],
  };
  const listening = valuesOf(facts, "listen").flatMap((fact) => port(fact.transport, fact.port));
  const policy = {
    apiVersion: "networking.k8s.io/v1",
    kind: "NetworkPolicy",
    metadata: { name: `gabion-${name}`, ...(scope.namespace === "" ? {} : { namespace: scope.namespace }) },
    spec: {
      podSelector: { matchLabels: { app: name } },
      policyTypes: ["Ingress", "Egress"],
      ingress: listening.length === 0 ? [] : [{ ports: listening }],
      egress: [
        ...(domains.length === 0 ? [] : [dns]),
        ...(internet.length === 0 ? [] : [{ to: anywhere, ports: internet }]),
        ...within,
      ],
    },
  };
  const unexpressed = [
    `the pods: \`app: ${name}\` is a guess, put the workload's own labels there`,
    "who may connect: the model learns which ports are listened on, not from where",
    ...count(domains.length, "domains: a NetworkPolicy knows addresses only; look-ups are allowed to any resolver"),
    ...(internet.length > 0 ? ["which hosts of the Internet: the model learns their ports"] : []),
    ...count(portless.length, "destinations of other protocols than TCP and UDP"),
    "programs, files and system calls",
  ];
  return { document: stringify(policy), unexpressed };
}

/** A path as AppArmor writes it: what stands for more than itself there is escaped. */
function apparmorPath(path: string, isPattern: boolean): string {
  const escaped = (isPattern ? path.replaceAll("?", "*") : path).replaceAll(/[\\?[\]{}^"]/g, (char) => `\\${char}`);
  const starred = isPattern ? escaped : escaped.replaceAll("*", "\\*");
  return /\s/.test(starred) ? `"${starred}"` : starred;
}

function sorted(lines: readonly string[]): string[] {
  return [...new Set(lines)].sort();
}

/** The learned programs, folders and transports as an AppArmor profile. */
export function apparmorProfile(facts: readonly Fact[], name: string): Profile {
  const processes = valuesOf(facts, "process");
  const files = valuesOf(facts, "file");
  const paths = processes.flatMap((fact) => (fact.name.startsWith("/") ? [fact.path, fact.name] : [fact.path]));
  // ix: the new program stays in this profile.
  const programs = sorted(paths.map((path) => `  ${apparmorPath(path, false)} rix,`));
  const folders = files.map(({ path, isExecutable, isPattern }) => {
    const shown = apparmorPath(path, isPattern);
    const isQuoted = shown.startsWith('"');
    const within = isExecutable ? shown : isQuoted ? `${shown.slice(0, -1)}/*"` : `${path === "/" ? "" : shown}/*`;
    return `  ${within} rw,`;
  });
  const transports = (fact: { readonly transport: Transport }) =>
    fact.transport === Transport.TCP ? ["stream"] : fact.transport === Transport.UDP ? ["dgram"] : [];
  const kinds = [...valuesOf(facts, "listen"), ...valuesOf(facts, "outbound")].flatMap(transports);
  const network = sorted([...kinds, ...(valuesOf(facts, "domain").length > 0 ? ["dgram"] : [])]).flatMap((kind) => [
    `  network inet ${kind},`,
    `  network inet6 ${kind},`,
  ]);
  const document = [
    "#include <tunables/global>",
    `profile ${resourceName(name)} flags=(attach_disconnected,mediate_deleted) {`,
    "  # reading is not learned: it is allowed as a whole",
    "  /** r,",
    "  /**.so* mr,",
    ...programs,
    ...sorted(folders),
    ...network,
    "  signal (send,receive) peer=@{profile_name},",
    "}",
    "",
  ].join("\n");
  const changed = processes.filter(({ sha256 }) => sha256 !== "").length;
  const unexpressed = [
    "content of programs: a path is allowed whatever lies there",
    ...count(changed, "programs whose content is not the image's are allowed by path all the same"),
    ...count(
      processes.filter(({ path, name: as }) => !path.endsWith(`/${as}`)).length,
      "names that one program is run under: AppArmor knows its path only",
    ),
    "which program writes where: each folder is open to all of them",
    "ports, addresses and domains: transports only",
    "system calls: use the seccomp profile beside it",
  ];
  return { document, unexpressed };
}
