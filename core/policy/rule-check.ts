import { domainToASCII } from "node:url";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { CustomRule, ProcessEntry, RollOut, Rule } from "#gen/gabion/rule/v1/rule_pb.ts";
import { parsePrefix } from "../matching/address.ts";
import { parseDomainPattern } from "../matching/domain.ts";
import { syscallNumber } from "../syscall/names.ts";
import { expressionLanguage } from "./custom-rules.ts";
import { warnOfCustomRules, warnOfDelivery } from "./rule-delivery.ts";

/** A fault that makes a rule unusable, with its place. */
export interface RuleFault {
  readonly field: string;
  readonly message: string;
}

/** Detectors by section; another name is a fault, because it would silently do nothing. */
const DETECTORS: Readonly<Record<string, readonly string[]>> = {
  process: ["drift", "crypto_miner", "reverse_shell", "lateral_movement", "setuid", "parent_check", "intel"],
  network: ["port_scan", "raw_socket", "metadata_service", "kubernetes_api", "lateral_movement", "intel"],
  dns: ["dns_tunnel", "dns_flood", "encrypted_dns", "foreign_resolver", "intel"],
  filesystem: ["changed_binary", "account_files", "ssh_files", "loader_files", "malware"],
};

/** More stars than this in one pattern are taken for a mistake. */
const STARS_MAX = 8;

function entryFaults(place: string, entries: readonly ProcessEntry[]): RuleFault[] {
  return entries.flatMap(({ process }, index) => {
    const field = `${place}[${index}].process`;
    const isRelative = process.includes("/") && !process.startsWith("/") && !process.startsWith("*");
    const faults: RuleFault[] = [];
    if (isRelative)
      faults.push({ field, message: `\`${process}\` must begin with \`/\` or \`*\`, or be a name without a slash` });
    if (/\/\.{0,2}(\/|$)/.test(process) && process !== "/") {
      faults.push({ field, message: `\`${process}\` is not a real path: leave out \`//\`, \`/./\` and \`/../\`` });
    }
    if (process.split("*").length - 1 > STARS_MAX) faults.push({ field, message: `has more than ${STARS_MAX} stars` });
    return faults;
  });
}

function detectorFaults(rule: Rule): RuleFault[] {
  return Object.entries(DETECTORS).flatMap(([section, known]) => {
    const part = rule[section as "process" | "network" | "dns" | "filesystem"];
    return Object.keys(part?.detectors ?? {})
      .filter((name) => !known.includes(name))
      .map((name) => ({
        field: `${section}.detectors["${name}"]`,
        message: `is not one of ${known.map((k) => `\`${k}\``).join(", ")}`,
      }));
  });
}

/** Who is asked for names is asked by address: anything else would except nobody. */
function resolverFaults(rule: Rule): RuleFault[] {
  return (rule.dns?.detectors["foreign_resolver"]?.exceptions ?? []).flatMap((text, index) => {
    if (parsePrefix(text)) return [];
    const field = `dns.detectors["foreign_resolver"].exceptions[${index}]`;
    return [{ field, message: `\`${text}\` must be the address of a resolver, or a prefix such as \`192.0.2.0/24\`` }];
  });
}

/** A name with other letters as it is looked up (IDNA, by the URL standard); undefined where it can be none. */
function asLookedUp(domain: string): string | undefined {
  const isSuffix = domain.startsWith("*.");
  const ascii = domainToASCII(isSuffix ? domain.slice(2) : domain);
  return ascii === "" ? undefined : `${isSuffix ? "*." : ""}${ascii}`;
}

function domainFaults(place: string, domains: readonly string[]): RuleFault[] {
  return domains.flatMap((domain, index) => {
    // Look-ups carry such names in their ASCII form: as written, the entry would name nothing.
    if (/[^\0-\x7f]/.test(domain)) {
      const form = asLookedUp(domain);
      const right = form === undefined ? "and this can be no domain" : `here \`${form}\``;
      return [{ field: `${place}[${index}]`, message: `\`${domain}\` must be written as it is looked up, ${right}` }];
    }
    if (parseDomainPattern(domain)) return [];
    const message = `\`${domain}\` must be a domain such as \`example.com\`, or \`*.example.com\` for all below it`;
    return [{ field: `${place}[${index}]`, message }];
  });
}

function addressFaults(place: string, addresses: readonly string[]): RuleFault[] {
  return addresses.flatMap((address, index) => {
    if (parsePrefix(address)) return [];
    const message = `\`${address}\` must be an address without a zone, or a prefix such as \`192.0.2.0/24\``;
    return [{ field: `${place}.outbound_addresses[${index}]`, message }];
  });
}

function pathFaults(place: string, paths: readonly string[]): RuleFault[] {
  return paths.flatMap((path, index) => {
    const field = `${place}[${index}]`;
    const isRelative = !path.startsWith("/") && !path.startsWith("*");
    if (isRelative) return [{ field, message: `\`${path}\` must begin with \`/\` or \`*\`` }];
    if (/\/\.{0,2}(\/|$)/.test(path) && path !== "/") {
      return [
        { field, message: `\`${path}\` is not a real path: leave out \`//\`, \`/./\`, \`/../\` and the last slash` },
      ];
    }
    return path.split("*").length - 1 > STARS_MAX ? [{ field, message: `has more than ${STARS_MAX} stars` }] : [];
  });
}

function syscallFaults(place: string, names: readonly string[]): RuleFault[] {
  return names.flatMap((name, index) =>
    syscallNumber(name, false) === undefined && syscallNumber(name, true) === undefined
      ? [{ field: `${place}[${index}]`, message: `\`${name}\` is no system call such as \`ptrace\`` }]
      : [],
  );
}

/** Units that the custom rules of a rule may cost together: each event is asked of all of them. */
const CUSTOM_COST_MAX = 50_000;

function effectFaults(place: string, { isAllow, isIncident, effect }: CustomRule): RuleFault[] {
  const acts = effect === Effect.ALERT || effect === Effect.PREVENT || effect === Effect.BLOCK;
  if (!isAllow) return acts ? [] : [{ field: `${place}.effect`, message: "must be alert, prevent or block" }];
  return [
    ...(effect === Effect.UNSPECIFIED
      ? []
      : [{ field: `${place}.effect`, message: "must be left out where the rule allows" }]),
    ...(isIncident ? [{ field: `${place}.is_incident`, message: "what is allowed raises no incident" }] : []),
  ];
}

/** Faults of custom rules, each expression's with its place in it. */
function customFaults(rules: readonly CustomRule[]): RuleFault[] {
  let cost = 0;
  const faults = rules.flatMap((rule, index) => {
    const place = `custom_rules[${index}]`;
    const isTwin = rules.slice(0, index).some(({ name }) => name === rule.name);
    const twin = isTwin ? [{ field: `${place}.name`, message: `\`${rule.name}\` is used twice` }] : [];
    const compiled = expressionLanguage().compile(rule.expression);
    if ("expression" in compiled && compiled.expression) cost += compiled.expression.cost;
    const wrong = ("faults" in compiled ? (compiled.faults ?? []) : []).map(({ line, column, message }) => ({
      field: `${place}.expression`,
      message: `line ${line}, column ${column}: ${message}`,
    }));
    return [...twin, ...wrong, ...effectFaults(place, rule)];
  });
  const message = `together may cost ${cost} units for an event, and ${CUSTOM_COST_MAX} are the limit`;
  return cost > CUSTOM_COST_MAX ? [...faults, { field: "custom_rules", message }] : faults;
}

function rollOutFaults(rollOut: RollOut | undefined): RuleFault[] {
  if (!rollOut) return [];
  const { percents, dwell } = rollOut;
  const grows = percents.every((percent, index) => index === 0 || percent > (percents[index - 1] as number));
  return [
    ...(grows && percents.at(-1) === 100
      ? []
      : [{ field: "roll_out.percents", message: `must grow and end with 100, and are ${percents.join(", ")}` }]),
    ...(dwell ? [] : [{ field: "roll_out.dwell", message: "must say how long a stage lasts, for example `3600s`" }]),
  ];
}

/** All faults that field rules in the proto cannot express. */
export function checkRule(rule: Rule): RuleFault[] {
  return [
    ...entryFaults("process.allowed", rule.process?.allowed ?? []),
    ...entryFaults("process.denied", rule.process?.denied ?? []),
    ...addressFaults("network.allowed", rule.network?.allowed?.outboundAddresses ?? []),
    ...addressFaults("network.denied", rule.network?.denied?.outboundAddresses ?? []),
    ...domainFaults("dns.allowed", rule.dns?.allowed ?? []),
    ...domainFaults("dns.denied", rule.dns?.denied ?? []),
    ...pathFaults("filesystem.allowed", rule.filesystem?.allowed ?? []),
    ...pathFaults("filesystem.denied", rule.filesystem?.denied ?? []),
    ...syscallFaults("syscall.allowed", rule.syscall?.allowed ?? []),
    ...syscallFaults("syscall.denied", rule.syscall?.denied ?? []),
    ...detectorFaults(rule),
    ...resolverFaults(rule),
    ...customFaults(rule.customRules),
    ...rollOutFaults(rule.rollOut),
  ];
}

/** Something that works but that its author probably does not want. */
export function warnOfRule(rule: Rule): RuleFault[] {
  const warnings: RuleFault[] = [];
  const scope = rule.scope;
  const patterns = [scope?.images, scope?.containers, scope?.namespaces, scope?.clusters, scope?.hosts, scope?.labels];
  const isBroad = patterns.every((list) => (list ?? []).every((pattern) => pattern === "*"));
  const process = rule.process;
  if (isBroad && (process?.allowed.length ?? 0) > 0) {
    warnings.push({ field: "scope", message: "applies to every container, so what it allows is allowed everywhere" });
  }
  if (isBroad && (process?.effect === Effect.PREVENT || process?.effect === Effect.BLOCK)) {
    warnings.push({
      field: "process.effect",
      message: "stops processes in every container: a narrower scope is safer",
    });
  }
  const denied = new Set((process?.denied ?? []).map((entry) => entry.process));
  (process?.allowed ?? []).forEach((entry, index) => {
    if (denied.has(entry.process)) {
      warnings.push({
        field: `process.allowed[${index}]`,
        message: `\`${entry.process}\` is denied too, and denied wins`,
      });
    }
  });
  return [...warnings, ...warnOfDelivery(rule), ...warnOfCustomRules(rule)];
}
