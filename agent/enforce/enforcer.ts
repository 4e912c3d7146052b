import { compileProcessPolicy } from "#core/policy/process-policy.ts";
import { compileRuleChoice, type RuleChooser } from "#core/policy/rule-choice.ts";
import type { TreatmentSettings } from "#core/policy/treatment.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import type { Ruleset } from "#gen/gabion/rule/v1/rule_pb.ts";
import type { Logger } from "#lib/telemetry/log.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import type { Sensor } from "../wire/sensor.ts";
import { type PolicyInForce, SlotTable } from "./slot-table.ts";

/** Composes the policy of each container from rule set and model, and brings it into force in the kernel. */
export class Enforcer {
  readonly slots = new SlotTable();
  readonly #settings: TreatmentSettings;
  readonly #logger: Logger;
  #choose: RuleChooser | undefined;
  #rulesetRevision = 0n;
  #sensor: Sensor | undefined;

  constructor(settings: TreatmentSettings, logger: Logger) {
    this.#settings = settings;
    this.#logger = logger;
  }

  get rulesetRevision(): bigint {
    return this.#rulesetRevision;
  }

  /** A sensor that has just started holds no policy; without one nothing is in force. */
  attach(sensor: Sensor | undefined): void {
    this.#sensor = sensor;
    this.slots.attach(sensor);
  }

  takeRuleset(ruleset: Ruleset): void {
    this.#choose = compileRuleChoice(ruleset.rules);
    this.#rulesetRevision = ruleset.revision;
  }

  /**
   * Loads and binds a container's policy, if it is another one than now; the kernel changes over at once. Answers
   * whether the policy is in force.
   */
  enforce(container: WatchedContainer): Promise<boolean> {
    const done = Promise.withResolvers<boolean>();
    const onError = (err: unknown) => {
      this.#logger.error({ err, container: container.id }, "policy not in force");
      done.resolve(false);
    };
    const run = async () => done.resolve(await this.#change(container));
    if (!container.policyTurns.add(run, onError)) done.resolve(false);
    return done.promise;
  }

  /** Gives back what a container that has ended used. */
  release(container: WatchedContainer): void {
    if (container.use) this.slots.release(container.use);
    container.use = undefined;
  }

  async #change(container: WatchedContainer): Promise<boolean> {
    const before = container.use;
    const policy = this.#policyFor(container);
    if (container.isGone || !this.#sensor) return false;
    if (before?.fingerprint === policy.fingerprint) return true;
    const use = await this.slots.acquire(policy);
    try {
      await this.#sensor.bind(container.cgroup, use.slot, container.binding);
    } catch (error) {
      this.slots.release(use);
      throw error;
    }
    container.use = use;
    if (before) this.slots.release(before);
    if (container.isGone) this.release(container);
    return true;
  }

  #policyFor(container: WatchedContainer): PolicyInForce {
    const rule = this.#choose?.(container.message).rule;
    const section = container.model?.sections.find((s) => s.section === Section.PROCESS);
    const items = (section?.facts ?? []).flatMap(({ kind }) => (kind.case === "process" ? [kind.value] : []));
    const state = section?.state ?? LearningState.LEARNING;
    const modelRevision = container.model?.revision ?? 0n;
    const modelKey = container.message.modelKey;
    const input = { section: rule?.process, hasRule: rule !== undefined, items, state, settings: this.#settings };
    return {
      fingerprint: `${rule?.ruleId ?? ""} ${rule?.revision ?? 0n} ${modelKey} ${modelRevision}`,
      policy: compileProcessPolicy(input),
      rule,
      rulesetRevision: this.#rulesetRevision,
      modelKey,
      modelRevision,
      modelState: state,
      completeness: section?.completeness,
    };
  }
}
