import { type Intel, NO_INTEL, withoutExpired } from "#core/intel/intel-set.ts";
import { compileContainerPolicy, SECTIONS, sectionPolicy } from "#core/policy/container-policy.ts";
import { ruleOnNode } from "#core/policy/roll-out.ts";
import { compileRuleChoice, type RuleChooser } from "#core/policy/rule-choice.ts";
import type { TreatmentSettings } from "#core/policy/treatment.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { Rule, Ruleset } from "#gen/gabion/rule/v1/rule_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import type { Logger } from "#lib/telemetry/log.ts";
import { groupExists, type WatchedContainer } from "../containers/watched-container.ts";
import { mountsOf } from "../content/mounts.ts";
import { CgroupFlag, Group, ON_DEMAND } from "../wire/layout.ts";
import type { Sensor } from "../wire/sensor.ts";
import { toProtectOrder } from "./protect.ts";
import { type PolicyInForce, SlotTable, type SlotUse } from "./slot-table.ts";

/** Sections beside the process section, with what the kernel is told where they are in use. */
const SECTION_FLAGS: readonly (readonly [Section, number, number])[] = [
  [Section.NETWORK, CgroupFlag.NETWORK, Group.NETWORK | Group.TCP | Group.SYSCALL | Group.RING],
  [Section.DNS, CgroupFlag.DNS | CgroupFlag.NETWORK, Group.DNS | Group.NETWORK],
  [Section.FILESYSTEM, CgroupFlag.FILES, Group.SYSCALL | Group.RING],
  [Section.SYSCALL, CgroupFlag.SYSCALLS, Group.SYSCALL],
];

/** The program group without which a section sees nothing. */
const SEEN_BY: Partial<Record<Section, number>> = {
  [Section.NETWORK]: Group.NETWORK,
  [Section.DNS]: Group.DNS,
  [Section.FILESYSTEM]: Group.SYSCALL,
  [Section.SYSCALL]: Group.SYSCALL,
};

/** True where what the kernel passes by itself is what a model still learns from: then it must be counted. */
function isLearningFrom(use: PolicyInForce): boolean {
  return SECTIONS.some(
    (section) => isInUse(use, section) && sectionPolicy(use.policy, section).state !== LearningState.ACTIVE,
  );
}

function isInUse(policy: PolicyInForce, section: Section): boolean {
  const { hasRule, effect } = sectionPolicy(policy.policy, section);
  return hasRule && effect !== Effect.DISABLE;
}

/** When a container is looked at again that does not run its own programs yet; the last one repeats. */
const WATCH_RETRIES_MS = [10, 30, 100, 300, 1_000, 5_000] as const;

export interface EnforcerOptions {
  readonly nodeId: string;
  readonly settings: TreatmentSettings;
  /** Address ranges that are the cluster's own. */
  readonly internalRanges: readonly string[];
  readonly cgroupMount: string;
  readonly logger: Logger;
  /** Not all that a container's rule refuses in its file system is refused, and why; said again only after it was. */
  readonly onUnprotected: (container: WatchedContainer, reason: string) => void;
}

/** Composes the policy of each container from rule set and model, and brings it into force in the kernel. */
export class Enforcer {
  readonly slots: SlotTable;
  readonly #nodeId: string;
  readonly #settings: TreatmentSettings;
  readonly #internalRanges: readonly string[];
  readonly #cgroupMount: string;
  readonly #logger: Logger;
  readonly #onUnprotected: EnforcerOptions["onUnprotected"];
  /** Sensor program groups that each container needs. */
  readonly #needs = new Map<WatchedContainer, number>();
  #choose: RuleChooser | undefined;
  #rulesetRevision = 0n;
  #intel = NO_INTEL;
  #sensor: Sensor | undefined;
  #groups = 0;
  #sensed = 0;
  #sensing: Promise<unknown> = Promise.resolve();

  constructor({ nodeId, settings, internalRanges, cgroupMount, logger, onUnprotected }: EnforcerOptions) {
    this.slots = new SlotTable(internalRanges, logger);
    this.#internalRanges = internalRanges;
    this.#nodeId = nodeId;
    this.#settings = settings;
    this.#cgroupMount = cgroupMount;
    this.#logger = logger;
    this.#onUnprotected = onUnprotected;
  }

  get rulesetRevision(): bigint {
    return this.#rulesetRevision;
  }

  /** A sensor that has just started holds no policy; without one nothing is in force. */
  attach(sensor: Sensor | undefined, groups = 0): void {
    this.#sensor = sensor;
    this.#groups = groups;
    this.#sensed = 0;
    this.#needs.clear();
    this.slots.attach(sensor);
  }

  takeRuleset(ruleset: Ruleset): void {
    this.#choose = compileRuleChoice(ruleset.rules);
    this.#rulesetRevision = ruleset.revision;
  }

  /** Version of the intelligence in force, empty for none. */
  get intelVersion(): string {
    return this.#intel.revision === 0n ? "" : `set-${this.#intel.revision}`;
  }

  takeIntel(intel: Intel): void {
    this.#intel = intel;
  }

  /** Sections that a container's rule has in use; the process section is always watched. */
  sectionsOf(container: Container): Section[] {
    const rule: Rule | undefined = this.#choose?.(container).rule;
    const policy = compileContainerPolicy(rule, undefined, this.#settings);
    return SECTIONS.filter(
      (section) =>
        section === Section.PROCESS || (rule !== undefined && sectionPolicy(policy, section).effect !== Effect.DISABLE),
    );
  }

  /**
   * Loads and binds a container's policy, if it is another one than now; the kernel changes over at once. Answers
   * whether the policy is in force.
   */
  enforce(container: WatchedContainer): Promise<boolean> {
    return this.#inTurn(container, () => this.#change(container));
  }

  /** Binds again what is in force: the kernel forgets which system calls were used, so that each is told anew. */
  rebind(container: WatchedContainer): Promise<boolean> {
    return this.#inTurn(container, async () => {
      if (!container.use || !this.#sensor || container.isGone) return false;
      await this.#bind(this.#sensor, container, container.use);
      return true;
    });
  }

  /** Gives back what a container that has ended used. */
  release(container: WatchedContainer): void {
    if (container.use) this.slots.release(container.use);
    container.use = undefined;
    this.#needs.delete(container);
    void this.#sense().catch((err: unknown) => this.#logger.warn({ err }, "sensor groups not changed"));
  }

  /** Leaves out intelligence whose time is over; true where there was some. */
  dropExpired(nowMs: number): boolean {
    const before = this.#intel;
    this.#intel = withoutExpired(before, nowMs);
    return this.#intel !== before;
  }

  /**
   * Has what a container writes looked into, where its rule asks for it and there is something to look for. Its mounts
   * are there once it runs: until then this is tried again. In the container's turn.
   */
  async #watchContent(container: WatchedContainer, use: SlotUse, attempt = 0): Promise<void> {
    clearTimeout(container.contentRetry);
    if (!this.#sensor || (this.#groups & Group.FANOTIFY) === 0) return;
    const { effect } = use.policy.filesystem.detectors.malware;
    const isAsked = use.policy.filesystem.hasRule && effect !== Effect.DISABLE && this.#intel.byHash.size > 0;
    if (!isAsked && !container.isContentWatched) return;
    const { rootfs } = container.identified.bundle;
    const mounts = isAsked ? await mountsOf(this.#cgroupMount, container.cgroup, rootfs) : [];
    if (isAsked && mounts.length === 0) {
      this.#watchLater(container, attempt);
      return;
    }
    try {
      await this.#sensor.watch(container.cgroup, use.slot, mounts);
      container.isContentWatched = isAsked;
    } catch (err) {
      this.#logger.error({ err, container: container.id }, "not all that this container writes is looked into");
    }
  }

  #watchLater(container: WatchedContainer, attempt: number): void {
    const delayMs = WATCH_RETRIES_MS[Math.min(attempt, WATCH_RETRIES_MS.length - 1)];
    if (attempt === WATCH_RETRIES_MS.length) {
      this.#logger.warn({ container: container.id }, "its mounts are not found: what it writes is not looked into");
    }
    const again = async () => {
      if (container.use && !container.isGone) await this.#watchContent(container, container.use, attempt + 1);
      return true;
    };
    // One at a time: a policy that changes meanwhile begins anew.
    clearTimeout(container.contentRetry);
    container.contentRetry = setTimeout(() => void this.#inTurn(container, again), delayMs).unref();
  }

  #inTurn(container: WatchedContainer, run: () => Promise<boolean>): Promise<boolean> {
    const done = Promise.withResolvers<boolean>();
    const onError = (err: unknown) => {
      const hasEnded = container.isGone || !groupExists(this.#cgroupMount, container.cgroup);
      this.#logger[hasEnded ? "debug" : "error"]({ err, container: container.id }, "policy not in force");
      done.resolve(false);
    };
    if (!container.policyTurns.add(async () => done.resolve(await run()), onError)) done.resolve(false);
    return done.promise;
  }

  async #change(container: WatchedContainer): Promise<boolean> {
    const before = container.use;
    const policy = this.#policyFor(container);
    if (container.isGone || !this.#sensor) return false;
    if (before?.fingerprint === policy.fingerprint) {
      if (container.protection === "failed") await this.#protect(this.#sensor, container, before);
      return true;
    }
    const use = await this.slots.acquire(policy);
    try {
      await this.#bind(this.#sensor, container, use);
    } catch (error) {
      this.slots.release(use);
      throw error;
    }
    container.use = use;
    if (before) this.slots.release(before);
    if (container.isGone) this.release(container);
    await this.#watchContent(container, use);
    // The policy is in force without it; what was to be refused is then told after the fact.
    await this.#protect(this.#sensor, container, use);
    return true;
  }

  /** A program group that the kernel refused is not asked for: what it would have seen is said to be missing. */
  async #bind(sensor: Sensor, container: WatchedContainer, use: PolicyInForce & { slot: number }): Promise<void> {
    const used = SECTION_FLAGS.filter(([section]) => isInUse(use, section));
    const needed = used.reduce((sum, [, , groups]) => sum | groups, 0) & this.#groups;
    // A section whose own program group is not there sees nothing: it is not said to be observed.
    const seeing = used.filter(([section]) => (this.#groups & (SEEN_BY[section] ?? 0)) !== 0);
    const ofSections = seeing.reduce((sum, [, flag]) => sum | flag, 0);
    const flags = ofSections | (isLearningFrom(use) ? CgroupFlag.LEARNING : 0);
    this.#needs.set(container, needed);
    await this.#sense();
    const { flags: own, device } = container.binding;
    await sensor.bind(container.cgroup, use.slot, { flags: own | flags, device });
    container.policyFlags = flags;
    container.observed = new Set([Section.PROCESS, ...seeing.map(([section]) => section)]);
    // Who ran before is known now; who comes later comes by an exec.
    container.dropFlag(CgroupFlag.RUNNING);
  }

  /** What could not be brought into force is tried again with every scan. */
  async #protect(sensor: Sensor, container: WatchedContainer, { refused, slot }: SlotUse): Promise<void> {
    if ((this.#groups & Group.FANOTIFY) === 0) return;
    const before = container.protection;
    if (refused.length === 0 && before === "none") return;
    try {
      const { entries, isComplete } = await toProtectOrder(container.identified, refused);
      await sensor.protect(container.cgroup, slot, entries);
      container.protection = entries.length === 0 ? "none" : isComplete ? "whole" : "partial";
      if (container.protection === "partial" && before !== "partial")
        this.#onUnprotected(container, "it has more folders there than can be watched");
    } catch (err) {
      container.protection = "failed";
      if (before !== "failed") this.#onUnprotected(container, (err as Error).message);
    }
  }

  /** Programs that cost the whole machine something run only while some container needs them. */
  async #sense(): Promise<void> {
    const run = async () => {
      const wanted = [...this.#needs.values()].reduce((sum, groups) => sum | groups, 0) & ON_DEMAND;
      const sensor = this.#sensor;
      if (wanted === this.#sensed || !sensor) return;
      await sensor.sense(wanted);
      if (sensor === this.#sensor) this.#sensed = wanted;
    };
    // One after another: who comes second must not go on before the first one's programs are in place.
    const mine = this.#sensing.then(run, run);
    this.#sensing = mine.catch(() => {});
    await mine;
  }

  #policyFor(container: WatchedContainer): PolicyInForce {
    const chosen = this.#choose?.(container.message).rule;
    const rule = chosen && ruleOnNode(chosen, this.#nodeId);
    const { model } = container;
    const modelRevision = model?.revision ?? 0n;
    const modelKey = container.message.modelKey;
    const { resolvers } = container.identified;
    const { kubernetesApi } = container.identified.bundle;
    const intel = this.#intel;
    const executables = intel.byHash.size === 0 ? [] : container.identified.manifest.executables;
    const imageHashes = new Map([...executables].map(([path, { sha256 }]) => [path, sha256] as const));
    return {
      fingerprint: `${rule?.ruleId ?? ""} ${rule?.revision ?? 0n} ${modelKey} ${modelRevision} ${kubernetesApi} ${resolvers.join()} ${intel.revision}/${intel.count}`,
      policy: compileContainerPolicy(rule, model, this.#settings, {
        kubernetesApi,
        internalRanges: this.#internalRanges,
        resolvers,
        intel,
        imageHashes,
      }),
      rule,
      rulesetRevision: this.#rulesetRevision,
      modelKey,
      modelRevision,
      completeness: new Map(
        (model?.sections ?? []).flatMap(({ section, completeness }) =>
          completeness ? [[section, completeness] as const] : [],
        ),
      ),
    };
  }
}
