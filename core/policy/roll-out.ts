import { create } from "@bufbuild/protobuf";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { type Detector, DetectorSchema, type RollOut, type Rule, RuleSchema } from "#gen/gabion/rule/v1/rule_pb.ts";

const HUNDREDTHS = 10_000;

/** FNV-1a, 32 bit: small, and the same everywhere. Source: draft-eastlake-fnv. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i += 1) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  // A last mixing, because the low bits of texts that differ at the end only lie close together.
  value ^= value >>> 15;
  value = Math.imul(value, 0x2c1b3c6d);
  return (value ^ (value >>> 12)) >>> 0;
}

/** Percent of the nodes that a roll-out has come to. */
export function percentOf({ percents, stage, isHalted }: RollOut): number {
  return isHalted ? 0 : (percents[Math.min(stage, percents.length - 1)] ?? 0);
}

/** True if a rule may do more than alert on a node. A node that is in one stage is in all later ones. */
export function isArmed(rule: Rule, nodeId: string): boolean {
  if (!rule.rollOut) return true;
  return hash(`${rule.ruleId}/${nodeId}`) % HUNDREDTHS < percentOf(rule.rollOut) * (HUNDREDTHS / 100);
}

function capped(effect: Effect): Effect {
  return effect === Effect.PREVENT || effect === Effect.BLOCK ? Effect.ALERT : effect;
}

function cappedSection<S extends { effect: Effect; detectors?: Record<string, Detector> }>(section: S): S {
  const entries = Object.entries(section.detectors ?? {}).map(([name, detector]) => [
    name,
    create(DetectorSchema, { ...detector, effect: capped(detector.effect) }),
  ]);
  const detectors = section.detectors ? { detectors: Object.fromEntries(entries) as Record<string, Detector> } : {};
  return { ...section, ...detectors, effect: capped(section.effect) };
}

/** The rule as it is in force on a node: where its roll-out has not come to, it alerts and does no more. */
export function ruleOnNode(rule: Rule, nodeId: string): Rule {
  if (isArmed(rule, nodeId)) return rule;
  const { process, network, dns, filesystem, syscall } = rule;
  return create(RuleSchema, {
    ...rule,
    ...(process ? { process: cappedSection(process) } : {}),
    ...(network ? { network: cappedSection(network) } : {}),
    ...(dns ? { dns: cappedSection(dns) } : {}),
    ...(filesystem ? { filesystem: cappedSection(filesystem) } : {}),
    ...(syscall ? { syscall: cappedSection(syscall) } : {}),
    customRules: rule.customRules.map((each) => ({ ...each, effect: capped(each.effect) })),
  });
}
