import { z } from "zod";
import { FLOOD_DOMAINS_MAX, TUNNEL_NAMES_MAX } from "#core/detect/dns.ts";
import { SCAN_MAX } from "#core/detect/port-scan.ts";
import { DEFAULT_DETECTORS, type DetectorSettings } from "#core/detect/settings.ts";
import { parsePrefix } from "#core/matching/address.ts";
import { type ConfigOf, durationMs, type Settings } from "#lib/config/config.ts";
import { SERVICE_PORTS } from "#lib/service/settings.ts";

const { scan: SCAN, dns: DNS } = DEFAULT_DETECTORS;
const text = (fallback: string, description: string) => ({ type: z.string().default(fallback), description });
const flag = (fallback: boolean, description: string) => ({ type: z.boolean().default(fallback), description });
const count = (fallback: number, max: number, description: string) => ({
  type: z.number().int().min(1).max(max).default(fallback),
  description,
});
const duration = (fallback: number, description: string) => ({ type: durationMs.default(fallback), description });
const local = (port: number) => `https://127.0.0.1:${port}`;

/** Settings of the node agent. */
export const AGENT_SETTINGS = {
  "agent.cluster": {
    type: z.string().max(253).default(""),
    description: "name of the node's Kubernetes cluster: models of two clusters are two",
  },
  "node.id": {
    type: z
      .string()
      .regex(/^([A-Za-z0-9][A-Za-z0-9-]{0,126})?$/, "must be letters, digits and hyphens")
      .default(""),
    description: "identity of this node; empty for one made from the host's name and machine id",
  },
  "agent.scope": {
    type: z
      .string()
      .regex(/^\/[^\s]*$/, "must begin with a slash")
      .default("/"),
    description: "part of the control group tree that is watched; what is outside does not exist for the agent",
  },
  "agent.dataDirectory": text("data/agent", "folder of the agent's state"),
  "agent.hold": duration(2_000, "longest time that a new container is held until its policy is in place; 0 for never"),
  "agent.holdAll": flag(false, "hold every new control group, not only those that a container runtime makes"),
  "agent.measure": flag(false, "measure the time that the kernel side takes for each exec"),
  "agent.runcRoots": text("/run/runc", "folders of runc's state, separated by commas"),
  "agent.runcBinary": text("runc", "runc, for stopping containers"),
  "agent.sensorBinary": text(".cache/sensor/gabion-sensor", "the sensor"),
  "agent.span": duration(15_000, "how often presence and what was seen are reported"),
  "agent.internalRanges": {
    type: z
      .string()
      .default("")
      .transform((value) => value.split(",").filter((range) => range !== ""))
      .refine((ranges) => ranges.every((range) => parsePrefix(range)), "must be prefixes such as 100.64.0.0/10"),
    description: "the cluster's own address ranges, separated by commas: checks of outbound ports leave them out",
  },
  "agent.scan.window": duration(SCAN.windowMs, "first contacts within this time are looked at together for port scans"),
  "agent.scan.vertical": count(SCAN.vertical, SCAN_MAX, "ports of one host that fail within it and are a port scan"),
  "agent.scan.horizontal": count(
    SCAN.horizontal,
    SCAN_MAX,
    "hosts that fail on one port within it and are a port scan",
  ),
  "agent.scan.total": count(SCAN.total, SCAN_MAX, "destinations that fail within it and are a port scan"),
  "agent.scan.dark": count(
    SCAN.dark,
    SCAN_MAX,
    "internal addresses that cannot be reached, tried within it on ports that the model does not hold, and are a port scan",
  ),
  "agent.dns.window": duration(DNS.windowMs, "look-ups within this time are looked at together for tunnels"),
  "agent.dns.tunnelNames": count(
    DNS.tunnelNames,
    TUNNEL_NAMES_MAX,
    "distinct names below one domain within it that are a tunnel",
  ),
  "agent.dns.tunnelBytes": count(DNS.tunnelBytes, 1_000_000, "bytes that those names must have besides"),
  "agent.dns.slowWindow": duration(
    DNS.slowWindowMs,
    "look-ups within this time are looked at together for slow tunnels",
  ),
  "agent.dns.slowBytes": count(DNS.slowBytes, 1_000_000, "bytes that as many names must have for a slow tunnel"),
  "agent.dns.floodWindow": duration(DNS.floodWindowMs, "look-ups within this time are looked at together for floods"),
  "agent.dns.floodDomains": count(
    DNS.floodDomains,
    FLOOD_DOMAINS_MAX,
    "domains that do not exist within it and are a flood",
  ),
  "agent.liftDryRunCap": flag(false, "let effects above alert through during a dry run"),
  "model.url": text(local(SERVICE_PORTS.model), "model-service"),
  "rule.url": text(local(SERVICE_PORTS.rule), "rule-service"),
  "intel.url": text(local(SERVICE_PORTS.intel), "intel-service"),
  "audit.url": text(local(SERVICE_PORTS.audit), "audit-service"),
  "nats.servers": text("127.0.0.1:4222", "NATS servers, separated by commas"),
  "pki.directory": text("data/pki", "folder of certificates and keys"),
  "log.level": {
    type: z.enum(["trace", "debug", "info", "warn", "error"]).default("info"),
    description: "trace, debug, info, warn or error",
  },
} satisfies Settings;

export type AgentConfig = ConfigOf<typeof AGENT_SETTINGS>;

/** Thresholds of detectors, with those of the settings. */
export function detectorSettings(config: AgentConfig): DetectorSettings {
  return {
    scan: {
      ...SCAN,
      windowMs: config["agent.scan.window"],
      vertical: config["agent.scan.vertical"],
      horizontal: config["agent.scan.horizontal"],
      total: config["agent.scan.total"],
      dark: config["agent.scan.dark"],
    },
    dns: {
      ...DNS,
      windowMs: config["agent.dns.window"],
      tunnelNames: config["agent.dns.tunnelNames"],
      tunnelBytes: config["agent.dns.tunnelBytes"],
      slowWindowMs: config["agent.dns.slowWindow"],
      slowBytes: config["agent.dns.slowBytes"],
      floodWindowMs: config["agent.dns.floodWindow"],
      floodDomains: config["agent.dns.floodDomains"],
    },
  };
}
