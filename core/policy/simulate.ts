import type { Event, Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { JournalRecord, ModelPolicy } from "#gen/gabion/model/v1/model_pb.ts";
import { type Decision, Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { Rule } from "#gen/gabion/rule/v1/rule_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import { type Intel, NO_INTEL } from "../intel/intel-set.ts";
import { eventOfFact, journalKey } from "../model/journal.ts";
import { eventText } from "../text/event-text.ts";
import { type CompiledContainerPolicy, compileContainerPolicy } from "./container-policy.ts";
import { decideEvent, ruleEvent } from "./decide.ts";
import { sectionOfEvent } from "./event-section.ts";
import type { Ruling } from "./finding.ts";
import { compileRuleChoice, type RuleChooser } from "./rule-choice.ts";
import { DEFAULT_TREATMENT } from "./treatment.ts";

/** What came of events under one rule set. */
export interface Counts {
  audited: number;
  prevented: number;
  /** Containers, each once a day. */
  stopped: Set<string>;
}

/** Both sides of a comparison. */
export interface Compared {
  readonly now: Counts;
  readonly draft: Counts;
}

/** Events that the draft decides in another way. */
export interface Change {
  readonly event: Event;
  readonly section: Section;
  readonly modelKey: string;
  count: number;
  readonly containers: Set<string>;
  readonly now: Decision;
  readonly draft: Decision;
  readonly ruleName: string;
}

/** A model with the containers that ran it. */
export interface SimulatedModel {
  readonly policy: ModelPolicy | undefined;
  readonly containers: readonly Container[];
}

function counts(): Counts {
  return { audited: 0, prevented: 0, stopped: new Set() };
}

function compared(): Compared {
  return { now: counts(), draft: counts() };
}

function add(to: Counts, { treatment }: Ruling, count: number, container: string): void {
  if (!treatment.isAudited) return;
  to.audited += count;
  if (treatment.effect !== Effect.PREVENT && treatment.effect !== Effect.BLOCK) return;
  to.prevented += count;
  if (treatment.effect === Effect.BLOCK) to.stopped.add(container);
}

/** One set of rules, with the policies that it came to for the models and containers met so far. */
class Side {
  decisions = 0;
  readonly #choose: RuleChooser;
  readonly #intel: Intel;
  readonly #chosen = new Map<Container, Rule | undefined>();
  readonly #policies = new Map<ModelPolicy | undefined, Map<Rule | undefined, CompiledContainerPolicy>>();

  constructor(rules: readonly Rule[], intel: Intel) {
    this.#choose = compileRuleChoice(rules);
    this.#intel = intel;
  }

  ruleOf(container: Container): Rule | undefined {
    if (!this.#chosen.has(container)) this.#chosen.set(container, this.#choose(container).rule);
    return this.#chosen.get(container);
  }

  policyOf(container: Container, model: ModelPolicy | undefined): CompiledContainerPolicy {
    const rule = this.ruleOf(container);
    const ofModel = this.#policies.get(model) ?? new Map<Rule | undefined, CompiledContainerPolicy>();
    this.#policies.set(model, ofModel);
    const known = ofModel.get(rule) ?? compileContainerPolicy(rule, model, DEFAULT_TREATMENT, { intel: this.#intel });
    ofModel.set(rule, known);
    return known;
  }

  rule(container: Container, model: ModelPolicy | undefined, event: Event): Ruling {
    this.decisions += 1;
    return ruleEvent(this.policyOf(container, model), event, container);
  }
}

function isOther(a: Ruling, b: Ruling): boolean {
  return a.treatment.isAudited !== b.treatment.isAudited || a.treatment.effect !== b.treatment.effect;
}

/**
 * Tries a draft of the rules on what was recorded, beside the rules in force. Both are asked with models and intelligence as
 * they are now. What would not have happened any more, because its container was stopped before, is not left out.
 */
export class Simulation {
  readonly days = new Map<string, Compared>();
  readonly containers = new Map<Container, Compared>();
  readonly changes = new Map<string, Change>();
  recordCount = 0;
  itemCount = 0;
  readonly #now: Side;
  readonly #draft: Side;
  /** What was recorded, by model: what a model knows is not told a second time. */
  readonly #recorded = new Set<string>();

  constructor(now: readonly Rule[], draft: readonly Rule[], intel: Intel = NO_INTEL) {
    this.#now = new Side(now, intel);
    this.#draft = new Side(draft, intel);
  }

  get decisionCount(): number {
    return this.#now.decisions + this.#draft.decisions;
  }

  /** Goes through one record of the journal. Containers that nobody knows any more are left out. */
  addRecord(record: JournalRecord, model: SimulatedModel, containerOf: ReadonlyMap<string, Container>): void {
    const { event } = record;
    if (!event) return;
    this.recordCount += 1;
    this.#recorded.add(`${record.modelKey} ${eventText(event)}`);
    for (const { nodeId, containerId, count } of record.counts) {
      const container = containerOf.get(`${nodeId}/${containerId}`);
      if (container) this.#addCount(container, model.policy, event, Number(count), record.day);
    }
  }

  /** Goes through what a model knows: the kernel lets it through, so it is counted by nobody. */
  addModel(modelKey: string, { policy, containers }: SimulatedModel): void {
    const [container] = containers;
    if (!policy || !container) return;
    // Containers that get the same rules are told the same.
    const kinds = Map.groupBy(
      containers,
      (each) => `${this.#now.ruleOf(each)?.name} ${this.#draft.ruleOf(each)?.name}`,
    );
    for (const fact of policy.sections.flatMap(({ facts }) => facts)) {
      const event = eventOfFact(fact);
      if (!event || this.#recorded.has(`${modelKey} ${eventText(event)}`)) continue;
      this.itemCount += 1;
      for (const [first, ...others] of kinds.values()) {
        if (first) this.#noteChange(first, policy, event, 0, [first, ...others], modelKey);
      }
    }
  }

  #addCount(container: Container, model: ModelPolicy | undefined, event: Event, count: number, day: string): void {
    const now = this.#now.rule(container, model, event);
    const draft = this.#draft.rule(container, model, event);
    const ofDay = this.days.get(day) ?? compared();
    const ofContainer = this.containers.get(container) ?? compared();
    this.days.set(day, ofDay);
    this.containers.set(container, ofContainer);
    const key = `${container.nodeId}/${container.containerId}`;
    for (const to of [ofDay, ofContainer]) {
      add(to.now, now, count, key);
      add(to.draft, draft, count, key);
    }
    if (isOther(now, draft)) this.#change(container, model, event, count, [container], container.modelKey);
  }

  #noteChange(
    container: Container,
    model: ModelPolicy,
    event: Event,
    count: number,
    containers: readonly Container[],
    modelKey: string,
  ): void {
    const now = this.#now.rule(container, model, event);
    const draft = this.#draft.rule(container, model, event);
    if (isOther(now, draft)) this.#change(container, model, event, count, containers, modelKey);
  }

  #change(
    container: Container,
    model: ModelPolicy | undefined,
    event: Event,
    count: number,
    containers: readonly Container[],
    modelKey: string,
  ): void {
    const rule = this.#draft.ruleOf(container);
    const key = `${modelKey} ${rule?.name ?? ""} ${journalKey(event)}`;
    const known = this.changes.get(key) ?? {
      event,
      section: sectionOfEvent(event),
      modelKey,
      count: 0,
      containers: new Set<string>(),
      now: decideEvent(this.#now.policyOf(container, model), event, container),
      draft: decideEvent(this.#draft.policyOf(container, model), event, container),
      ruleName: rule?.name ?? "",
    };
    this.changes.set(key, known);
    known.count += count;
    for (const each of containers) known.containers.add(`${each.nodeId}/${each.containerId}`);
  }
}
