import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { NetworkSection, PortRange, Rule, Scope } from "#gen/gabion/rule/v1/rule_pb.ts";
import { parsePrefix } from "../matching/address.ts";
import { compileDomainIndex, parseDomainPattern } from "../matching/domain.ts";
import { compileAddressIndex } from "../matching/number-index.ts";
import { coversPattern } from "../matching/pattern.ts";
import { scopeFields } from "../matching/scope.ts";
import { compileTextIndex } from "../matching/text-index.ts";
import type { RuleFault } from "./rule-check.ts";

interface FieldPatterns {
  readonly includes: readonly string[];
  readonly excludes: readonly string[];
}

/** A scope for comparison with others. */
type ComparedScope = readonly FieldPatterns[];

/** Earlier rules that one is compared with at most. */
const COMPARED_MAX = 2_000;

function compared(scope: Scope | undefined): ComparedScope {
  return scopeFields(scope).map(({ patterns }) => ({
    includes: patterns.filter((pattern) => !pattern.startsWith("-") && pattern !== "*"),
    excludes: patterns.filter((pattern) => pattern.startsWith("-")).map((pattern) => pattern.slice(1)),
    // A star beside other patterns makes them needless.
    ...(patterns.includes("*") ? { includes: [] } : {}),
  }));
}

function coversField(wide: FieldPatterns, narrow: FieldPatterns): boolean {
  const isExcludedToo = wide.excludes.every((pattern) =>
    narrow.excludes.some((other) => coversPattern(other, pattern)),
  );
  if (!isExcludedToo) return false;
  if (wide.includes.length === 0) return true;
  return (
    narrow.includes.length > 0 &&
    narrow.includes.every((pattern) => wide.includes.some((other) => coversPattern(other, pattern)))
  );
}

/** Why no container can be in a scope; undefined where one may. */
function emptiness(scope: Scope | undefined): RuleFault | undefined {
  const fields = scopeFields(scope);
  for (const [at, { includes, excludes }] of compared(scope).entries()) {
    const name = fields[at]?.name ?? "";
    const isLeft =
      includes.length === 0 || includes.some((pattern) => !excludes.some((other) => coversPattern(other, pattern)));
    if (!isLeft || excludes.includes("*")) {
      return { field: `scope.${name}s`, message: "excludes everything that it names, so no container gets this rule" };
    }
    if (name === "label" && includes.length > 0 && includes.every((pattern) => !/[:*]/.test(pattern))) {
      return { field: "scope.labels", message: "a label is `key:value`, and none of these can be one" };
    }
  }
  return undefined;
}

function deadTexts(place: string, allowed: readonly string[], denied: readonly string[]): RuleFault[] {
  const deniedIndex = compileTextIndex(denied);
  return [
    ...allowed.flatMap((text, index) => {
      const by = denied[deniedIndex.find(text)];
      const message = `\`${text}\` is denied too, by \`${by}\`, and denied wins`;
      return by === undefined ? [] : [{ field: `${place}.allowed[${index}]`, message }];
    }),
    ...covered(`${place}.allowed`, allowed),
    ...covered(`${place}.denied`, denied),
  ];
}

/** Entries that one before them names as well. */
function covered(place: string, texts: readonly string[]): RuleFault[] {
  const index = compileTextIndex(texts);
  return texts.flatMap((text, at) => {
    const first = index.find(text);
    return first === at ? [] : [needless(place, at, text, texts[first] ?? "")];
  });
}

function needless(place: string, at: number, text: string, by: string): RuleFault {
  return { field: `${place}[${at}]`, message: `\`${text}\` can be left out: \`${by}\` names it before` };
}

/** A process entry without conditions; names and paths are two things. */
function processTexts(rule: Rule, list: "allowed" | "denied"): string[] {
  // What has conditions neither covers nor is covered.
  return (rule.process?.[list] ?? []).map(({ process, sha256, parents }, index) =>
    sha256 === "" && parents.length === 0 ? `${process.includes("/") ? "" : "name "}${process}` : `condition ${index}`,
  );
}

function readable({ field, message }: RuleFault): RuleFault {
  return { field, message: message.replaceAll("`name ", "`") };
}

function deadDomains(rule: Rule): RuleFault[] {
  const { allowed = [], denied = [] } = rule.dns ?? {};
  const indexOf = (texts: readonly string[]) =>
    compileDomainIndex(texts.flatMap((text) => parseDomainPattern(text) ?? []));
  const deniedIndex = indexOf(denied);
  const isCoveredBy = (index: ReturnType<typeof indexOf>, text: string) => {
    // A family of names is covered where one name far below it is, by something that is a family itself.
    const found = index.find(text.toLowerCase().replace(/^\*\./, "x.x."));
    return found && (found.isSuffix || !text.startsWith("*.")) ? found.source : undefined;
  };
  const needlessIn = (list: string, texts: readonly string[]) => {
    const index = indexOf(texts);
    return texts.flatMap((text, at) => {
      const by = isCoveredBy(index, text);
      const first = by === undefined ? at : texts.indexOf(by);
      return first < at ? [needless(`dns.${list}`, at, text, by as string)] : [];
    });
  };
  return [
    ...allowed.flatMap((text, index) => {
      const by = isCoveredBy(deniedIndex, text);
      const message = `\`${text}\` is denied too, by \`${by}\`, and denied wins`;
      return by === undefined ? [] : [{ field: `dns.allowed[${index}]`, message }];
    }),
    ...needlessIn("allowed", allowed),
    ...needlessIn("denied", denied),
  ];
}

type Entries = NetworkSection["allowed"];

function deadAddresses(allowed: Entries, denied: Entries): RuleFault[] {
  const read = (texts: readonly string[] = []) =>
    texts.flatMap((text) => {
      const prefix = parsePrefix(text);
      return prefix ? [{ text, ...prefix }] : [];
    });
  const findIn = (list: ReturnType<typeof read>) => {
    const index = compileAddressIndex(list);
    return ({ bytes, length }: { bytes: Uint8Array; length: number }) => {
      const found = list[index.find(bytes)];
      return found && found.length <= length ? found : undefined;
    };
  };
  const deniedPrefixes = read(denied?.outboundAddresses);
  const isDenied = findIn(deniedPrefixes);
  const needlessIn = (list: "allowed" | "denied", prefixes: ReturnType<typeof read>) => {
    const find = findIn(prefixes);
    return prefixes.flatMap((prefix, at) => {
      const by = find(prefix);
      return by && prefixes.indexOf(by) < at
        ? [needless(`network.${list}.outbound_addresses`, at, prefix.text, by.text)]
        : [];
    });
  };
  const allowedPrefixes = read(allowed?.outboundAddresses);
  return [
    ...allowedPrefixes.flatMap((prefix, at) => {
      const by = isDenied(prefix);
      const message = `\`${prefix.text}\` is denied too, by \`${by?.text}\`, and denied wins`;
      return by ? [{ field: `network.allowed.outbound_addresses[${at}]`, message }] : [];
    }),
    ...needlessIn("allowed", allowedPrefixes),
    ...needlessIn("denied", deniedPrefixes),
  ];
}

function rangeText({ first, last }: PortRange): string {
  return first === last ? String(first) : `${first}-${last}`;
}

/** Ranges that one before them, or a denied one, holds whole. Sorted by their first port, so that one pass suffices. */
function deadRanges(field: "listeningPorts" | "outboundPorts", allowed: Entries, denied: Entries): RuleFault[] {
  const place = field === "listeningPorts" ? "listening_ports" : "outbound_ports";
  const holding = (ranges: readonly PortRange[]) => {
    const sorted = ranges.map((range, at) => ({ range, at })).sort((a, b) => a.range.first - b.range.first);
    let widest: { range: PortRange; at: number } | undefined;
    // For each port, the range that begins at or before it and ends last.
    const reach = sorted.map((each) => {
      if (!widest || each.range.last > widest.range.last) widest = each;
      return widest;
    });
    return (wanted: PortRange) => {
      const before = sorted.findLastIndex(({ range }) => range.first <= wanted.first);
      const found = reach[before];
      return found && found.range.last >= wanted.last ? found : undefined;
    };
  };
  const ofDenied = holding(denied?.[field] ?? []);
  const own = (list: "allowed" | "denied", ranges: readonly PortRange[]) => {
    const find = holding(ranges);
    return ranges.flatMap((range, at) => {
      const by = find(range);
      return by && by.at < at ? [needless(`network.${list}.${place}`, at, rangeText(range), rangeText(by.range))] : [];
    });
  };
  return [
    ...(allowed?.[field] ?? []).flatMap((range, at) => {
      const by = ofDenied(range);
      const message = `\`${rangeText(range)}\` is denied too, by \`${by && rangeText(by.range)}\`, and denied wins`;
      return by ? [{ field: `network.allowed.${place}[${at}]`, message }] : [];
    }),
    ...own("allowed", allowed?.[field] ?? []),
    ...own("denied", denied?.[field] ?? []),
  ];
}

/** Lists of sections that are off. */
function offSections(rule: Rule): RuleFault[] {
  const { process, network, dns, filesystem, syscall } = rule;
  const counts = {
    process: [process, (process?.allowed.length ?? 0) + (process?.denied.length ?? 0)],
    network: [network, [network?.allowed, network?.denied].some(Boolean) ? 1 : 0],
    dns: [dns, (dns?.allowed.length ?? 0) + (dns?.denied.length ?? 0)],
    filesystem: [filesystem, (filesystem?.allowed.length ?? 0) + (filesystem?.denied.length ?? 0)],
    syscall: [syscall, (syscall?.allowed.length ?? 0) + (syscall?.denied.length ?? 0)],
  } as const;
  return Object.entries(counts).flatMap(([name, [section, count]]) =>
    section?.effect === Effect.DISABLE && count > 0
      ? [{ field: name, message: "the section is off, so its lists do nothing" }]
      : [],
  );
}

/** What of a rule can change nothing, whatever other rules there are. */
export function deadParts(rule: Rule): RuleFault[] {
  const { network, filesystem, syscall } = rule;
  const empty = emptiness(rule.scope);
  return [
    ...(empty ? [empty] : []),
    ...offSections(rule),
    ...deadTexts("process", processTexts(rule, "allowed"), processTexts(rule, "denied")).map(readable),
    ...deadRanges("listeningPorts", network?.allowed, network?.denied),
    ...deadRanges("outboundPorts", network?.allowed, network?.denied),
    ...deadAddresses(network?.allowed, network?.denied),
    ...deadDomains(rule),
    ...deadTexts("filesystem", filesystem?.allowed ?? [], filesystem?.denied ?? []),
    ...deadTexts("syscall", syscall?.allowed ?? [], syscall?.denied ?? []),
  ];
}

/** Names, of each rule that no container can get, the rule before it that takes all of them. */
export function shadowedRules(rules: readonly Rule[]): ReadonlyMap<Rule, Rule> {
  const before: { readonly rule: Rule; readonly scope: ComparedScope }[] = [];
  const shadowed = new Map<Rule, Rule>();
  for (const rule of rules) {
    if (rule.isDisabled) continue;
    const scope = compared(rule.scope);
    const by = before.find((each) => each.scope.every((field, at) => coversField(field, scope[at] as FieldPatterns)));
    if (by) shadowed.set(rule, by.rule);
    else if (before.length < COMPARED_MAX) before.push({ rule, scope });
  }
  return shadowed;
}
