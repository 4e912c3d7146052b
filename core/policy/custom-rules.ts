import { type Event, Section } from "#gen/gabion/event/v1/event_pb.ts";
import { type Decision, Effect, Outcome, Reason } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { CustomRule, Rule } from "#gen/gabion/rule/v1/rule_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import type { Expression, ExpressionLanguage } from "../expression/expression.ts";
import type { ListedObject } from "../expression/listed-objects.ts";
import { eventText } from "../text/event-text.ts";
import { type EventKind, sectionOfEvent, sectionOfKind } from "./event-section.ts";
import { type Finding, type Ruling, rulingOf, type SectionPolicy, toDecision } from "./finding.ts";

/** A custom rule, ready to be asked. */
export interface CompiledCustomRule {
  readonly rule: CustomRule;
  readonly expression: Expression;
}

/** The custom rules of a rule, in their order. */
export interface CompiledCustomRules {
  readonly rules: readonly CompiledCustomRule[];
  /** Sections that some of them look at. */
  readonly sections: ReadonlySet<Section>;
}

/** What the first custom rule that is true says, and what was tried before it. */
interface CustomAnswer {
  readonly matched: CustomRule | undefined;
  readonly passedOver: readonly string[];
}

const NO_CUSTOM_RULES: CompiledCustomRules = { rules: [], sections: new Set() };
const UNASKED: CustomAnswer = { matched: undefined, passedOver: [] };

let language: ExpressionLanguage | undefined;

/**
 * Loads the language of custom rules. Whoever compiles rules that may hold some does so before: a node without any keeps
 * seven megabytes less.
 */
export async function loadExpressionLanguage(): Promise<void> {
  if (language) return;
  const { ExpressionLanguage: Language } = await import("../expression/expression.ts");
  language ??= new Language();
}

/** The language of custom rules, loaded before. */
export function expressionLanguage(): ExpressionLanguage {
  if (!language) throw new Error("the language of custom rules was not loaded: see `loadExpressionLanguage`");
  return language;
}

/** Compiles custom rules. One that cannot be compiled was refused when it was saved, and is left out. */
export function compileCustomRules(rule: Rule | undefined): CompiledCustomRules {
  if (!rule || rule.customRules.length === 0) return NO_CUSTOM_RULES;
  const rules = rule.customRules.flatMap((each): CompiledCustomRule[] => {
    const { expression } = expressionLanguage().compile(each.expression) as { expression?: Expression };
    return expression ? [{ rule: each, expression }] : [];
  });
  const sections = rules.flatMap(({ expression }) => [...expression.kinds].map(sectionOfKind));
  return { rules, sections: new Set(sections) };
}

/** Tries custom rules in their order; the first that is true ends it. One that cannot be told is not true. */
function askCustomRules({ rules }: CompiledCustomRules, event: Event, container: Container): CustomAnswer {
  const kind = event.kind.case as EventKind;
  const passedOver: string[] = [];
  for (const { rule, expression } of rules) {
    if (!expression.kinds.has(kind)) continue;
    const truth = expression.isTrue(event, container);
    if (truth === true) return { matched: rule, passedOver };
    passedOver.push(
      truth === false
        ? `custom rule \`${rule.name}\`: not true`
        : `custom rule \`${rule.name}\`: could not be told, which is not true: ${truth.error}`,
    );
  }
  return { matched: undefined, passedOver };
}

/** What a custom rule that is true comes to: a person said so, as with an entry of a list. */
function customFinding(rule: CustomRule, event: Event, section: Effect): Finding {
  const matched = rule.name;
  const reason = Reason.CUSTOM_RULE;
  if (rule.isAllow) {
    const message = () => `custom rule \`${rule.name}\` allows ${eventText(event)}`;
    return { outcome: Outcome.ALLOW, eventClass: "allowed", effect: section, reason, matched, message };
  }
  const message = () => `custom rule \`${rule.name}\` is true of ${eventText(event)}`;
  return { outcome: Outcome.DENIAL, eventClass: "denial", effect: rule.effect, reason, matched, message };
}

/** An event with the container that it happened in. */
export interface Happening {
  readonly event: Event;
  readonly container: Container;
}

/** The first custom rule that is true of an event; a section that is off has none, and so has one that none looks at. */
function answerOf(custom: CompiledCustomRules, policy: SectionPolicy, { event, container }: Happening): CustomAnswer {
  const isOff = !policy.hasRule || policy.effect === Effect.DISABLE;
  return isOff || !custom.sections.has(sectionOfEvent(event)) ? UNASKED : askCustomRules(custom, event, container);
}

function customRuling(policy: SectionPolicy, event: Event, matched: CustomRule, passedOver: readonly string[]): Ruling {
  const ruling = rulingOf(policy, customFinding(matched, event, policy.effect), () => [...passedOver]);
  return { ...ruling, isIncident: matched.isIncident && ruling.treatment.isAudited };
}

/**
 * The ruling on an event: custom rules come before everything else of their section. `decide` says what the section's lists,
 * detectors and model come to.
 */
export function ruleWithCustom(
  custom: CompiledCustomRules,
  policy: SectionPolicy,
  happening: Happening,
  decide: () => Ruling,
): Ruling {
  const { matched, passedOver } = answerOf(custom, policy, happening);
  if (matched) return customRuling(policy, happening.event, matched, passedOver);
  const ruling = decide();
  return passedOver.length === 0 ? ruling : { ...ruling, passedOver: () => [...passedOver, ...ruling.passedOver()] };
}

/** As `ruleWithCustom`, where the section has been judged already and may have been corrected since. */
export function withCustomRules(
  custom: CompiledCustomRules,
  policy: SectionPolicy,
  happening: Happening,
  decide: () => Decision,
): Decision {
  const { matched, passedOver } = answerOf(custom, policy, happening);
  if (matched) return toDecision(customRuling(policy, happening.event, matched, passedOver));
  const decision = decide();
  decision.explanation?.passedOver.unshift(...passedOver);
  return decision;
}

/** Strength of what a custom rule comes to; allowing is the weakest. */
export function strengthOf({ isAllow, effect }: CustomRule): number {
  return isAllow ? 0 : effect;
}

/** An object that the kernel refuses as if the section's denied list named it, with an effect of its own. */
export interface KernelObject {
  readonly text: string;
  readonly kind: ListedObject["kind"];
  readonly effect: Effect;
}

/** What custom rules leave the kernel to decide in a section. */
export interface KernelShare {
  /** True where one of them may do less than the section would: the kernel then refuses nothing of the section's. */
  readonly isWeaker: boolean;
  /** True where one of them asks for what the kernel does not know: it then asks about everything. */
  readonly isOpaque: boolean;
  readonly objects: readonly KernelObject[];
}

const WHOLE: KernelShare = { isWeaker: false, isOpaque: false, objects: [] };

function concerns({ expression }: CompiledCustomRule, section: Section): boolean {
  return [...expression.kinds].some((kind) => sectionOfKind(kind) === section);
}

/**
 * True if the kernel can decide a custom rule of a section by itself. Of entries for one object the kernel takes the
 * strongest, of custom rules the first that is true decides: where a weaker one comes first, the later ones are asked.
 */
export function isKnownToKernel(
  { rules }: CompiledCustomRules,
  section: Section,
  index: number,
  effect: Effect,
): boolean {
  const { rule, expression } = rules[index] as CompiledCustomRule;
  const before = rules.slice(0, index).filter((each) => concerns(each, section));
  return (
    expression.objects !== undefined &&
    before.every((each) => strengthOf(each.rule) >= strengthOf(rule)) &&
    // All denied system calls share one action.
    (section !== Section.SYSCALL || rule.effect === effect)
  );
}

/** Divides a section between the kernel and what must be asked of the agent. */
export function kernelShare(custom: CompiledCustomRules, section: Section, effect: Effect): KernelShare {
  if (!custom.sections.has(section)) return WHOLE;
  const indices = custom.rules.flatMap((each, index) => (concerns(each, section) ? [index] : []));
  const acting = indices.filter((index) => !custom.rules[index]?.rule.isAllow);
  const known = acting.filter((index) => isKnownToKernel(custom, section, index, effect));
  return {
    isWeaker: indices.some((index) => strengthOf((custom.rules[index] as CompiledCustomRule).rule) < effect),
    isOpaque: known.length < acting.length,
    objects: known.flatMap((index) => {
      const { rule, expression } = custom.rules[index] as CompiledCustomRule;
      const own = (expression.objects ?? []).filter((object) => object.section === section);
      return own.map(({ kind, text }) => ({ kind, text, effect: rule.effect }));
    }),
  };
}

/** True if a custom rule asks about events of a kind: then they are to be told, whatever the section says. */
export function asksAbout({ rules }: CompiledCustomRules, kind: EventKind): boolean {
  return rules.some(({ expression }) => expression.kinds.has(kind));
}
