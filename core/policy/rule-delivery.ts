import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { CustomRule, Detector, ProcessSection, Rule } from "#gen/gabion/rule/v1/rule_pb.ts";
import { isPattern } from "../matching/pattern.ts";
import {
  type CompiledCustomRule,
  type CompiledCustomRules,
  compileCustomRules,
  isKnownToKernel,
  strengthOf,
} from "./custom-rules.ts";
import { sectionOfKind } from "./event-section.ts";
import type { RuleFault } from "./rule-check.ts";

/** Where a detector's prevent comes too late on a kernel without BPF LSM, and what it then comes to. */
const LATE_DETECTORS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  process: {
    reverse_shell: "who takes commands from a connection is known once it runs: it is killed then",
    crypto_miner: "names and arguments are looked at once the program runs: it is killed then",
    lateral_movement: "names are looked at once the program runs: it is killed then",
    setuid: "the program runs already when this is told: it is killed then",
    parent_check: "who started it is looked at once the program runs: it is killed then",
    intel: "content is looked at once the program runs: it is killed then",
  },
  network: { port_scan: "a scan has happened by the time it is found: block stops the container" },
  dns: {
    dns_tunnel: "a tunnel is found by the look-ups that it has made: block stops the container",
    dns_flood: "a flood is found by the look-ups that it has made: block stops the container",
    encrypted_dns:
      "the look-up of a known resolver is dropped; a connection to one is told and not refused: deny its address or port for that",
  },
  filesystem: {
    malware: "a file is looked into when it is closed: it has been written by then",
    changed_binary: "an executable is told when it has been opened, renamed or marked: only denied paths are refused",
  },
};

const FILES =
  "opening a denied or protected file of the root file system for writing is refused; on volumes and in memory, for removal, " +
  "renaming and modes, and for what is only not in the model, a kernel without BPF LSM tells it after the fact";

/** A path that the file system watch can refuse: one file, or a whole folder. */
function isRefusable(path: string): boolean {
  return !isPattern(path) || (path.endsWith("/*") && !isPattern(path.slice(0, -1)));
}

function lateDetectors(section: string, effect: Effect, detectors: Readonly<Record<string, Detector>>): RuleFault[] {
  return Object.entries(detectors).flatMap(([name, detector]) => {
    const message = LATE_DETECTORS[section]?.[name];
    const own = detector.effect === Effect.UNSPECIFIED ? effect : detector.effect;
    return message !== undefined && own === Effect.PREVENT
      ? [{ field: `${section}.detectors["${name}"]`, message: `prevent: ${message}` }]
      : [];
  });
}

const SECTION_NAMES: readonly (readonly [Section, "process" | "network" | "dns" | "filesystem" | "syscall"])[] = [
  [Section.PROCESS, "process"],
  [Section.NETWORK, "network"],
  [Section.DNS, "dns"],
  [Section.FILESYSTEM, "filesystem"],
  [Section.SYSCALL, "syscall"],
];

function ofCustomRule(rule: Rule, custom: CompiledCustomRules, index: number): RuleFault[] {
  const { expression } = custom.rules[index] as CompiledCustomRule;
  const own = rule.customRules[index] as CustomRule;
  const field = `custom_rules[${index}]`;
  const used = SECTION_NAMES.filter(([section]) =>
    [...expression.kinds].some((kind) => sectionOfKind(kind) === section),
  );
  return used.flatMap(([section, name]): RuleFault[] => {
    const effect = rule[name]?.effect ?? Effect.DISABLE;
    if (effect === Effect.DISABLE) {
      return [{ field, message: `does nothing in the ${name} section, which is off` }];
    }
    if (strengthOf(own) < effect) {
      const message = `may do less than the ${name} section, so nothing of that section is refused in the kernel: what it denies is acted upon after the fact`;
      return [{ field: `${field}.effect`, message }];
    }
    if (section === Section.SYSCALL && own.effect === Effect.PREVENT) {
      return [{ field: `${field}.effect`, message: "prevent is not offered for system calls: alert or block is" }];
    }
    const isLate = !own.isAllow && own.effect !== Effect.ALERT && !isKnownToKernel(custom, section, index, effect);
    const message = `is not decided in the kernel (${name} section): it acts after the fact; \`runs\`, \`reaches\`, \`touches\` and equal ports, names and system calls, joined by \`||\`, are`;
    return isLate ? [{ field: `${field}.expression`, message }] : [];
  });
}

/** How custom rules reach the act, where that is not as their author may think. */
export function warnOfCustomRules(rule: Rule): RuleFault[] {
  const custom = compileCustomRules(rule);
  return custom.rules.length === rule.customRules.length
    ? rule.customRules.flatMap((_, index) => ofCustomRule(rule, custom, index))
    : [];
}

/** Entries of the denied list of programs that are compared by the agent, once the program runs. */
function lateProcesses({ effect, denied }: ProcessSection): RuleFault[] {
  if (effect !== Effect.PREVENT) return [];
  return denied.flatMap(({ process, sha256, parents }, index) => {
    const condition = sha256 !== "" ? "its content" : parents.length > 0 ? "who started it" : undefined;
    const isWhole = !isPattern(process) || (process.startsWith("/") && isRefusable(process));
    const looked = condition ?? (isWhole ? undefined : "a pattern that is not a whole folder such as `/opt/*`");
    const message = `prevent: ${looked} is compared once \`${process}\` runs: it is killed then`;
    return looked === undefined ? [] : [{ field: `process.denied[${index}]`, message }];
  });
}

/** Where prevent is asked for and a node without BPF LSM cannot give it; each audit says so again. */
export function warnOfDelivery(rule: Rule): RuleFault[] {
  const { process, network, dns, filesystem } = rule;
  const sections = Object.entries({ process, network, dns, filesystem });
  const late = sections.flatMap(([name, section]) =>
    section === undefined ? [] : lateDetectors(name, section.effect, section.detectors),
  );
  if (process) late.push(...lateProcesses(process));
  if (filesystem?.effect !== Effect.PREVENT) return late;
  const patterns = filesystem.denied.flatMap((path, index) =>
    isRefusable(path)
      ? []
      : [
          {
            field: `filesystem.denied[${index}]`,
            message: `prevent: \`${path}\` is neither a file nor a whole folder such as \`/etc/*\`: writes are told after the fact`,
          },
        ],
  );
  return [{ field: "filesystem.effect", message: `prevent: ${FILES}` }, ...patterns, ...late];
}
