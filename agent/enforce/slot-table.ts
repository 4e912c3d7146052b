import type { Intel } from "#core/intel/intel-set.ts";
import type { CompiledContainerPolicy } from "#core/policy/container-policy.ts";
import { toIntelSlot } from "#core/policy/kernel-intel.ts";
import { type KernelEntry, type KernelSlot, type RefusedPath, toKernelSlot } from "#core/policy/kernel-slot.ts";
import type { Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { Completeness } from "#gen/gabion/model/v1/model_pb.ts";
import type { Rule } from "#gen/gabion/rule/v1/rule_pb.ts";
import type { Logger } from "#lib/telemetry/log.ts";
import type { Sensor } from "../wire/sensor.ts";

/** A policy in force, with all that an audit says about where it came from. */
export interface PolicyInForce {
  /** Equal texts mean equal policies. */
  readonly fingerprint: string;
  readonly policy: CompiledContainerPolicy;
  readonly rule: Rule | undefined;
  readonly rulesetRevision: bigint;
  readonly modelKey: string;
  readonly modelRevision: bigint;
  /** How sure the model was, by section. */
  readonly completeness: ReadonlyMap<Section, Completeness>;
}

/** A policy with the kernel slot that holds it. */
export interface SlotUse extends PolicyInForce {
  readonly slot: number;
  /** What opening is refused, where the node can do that. */
  readonly refused: readonly RefusedPath[];
  /** As the kernel has them: the first is number 1. */
  readonly entries: readonly KernelEntry[];
}

interface Loaded {
  use: SlotUse;
  ready: Promise<void>;
  users: number;
  intel: IntelSlot | undefined;
}

/** Intelligence in the kernel, for all policies that refer to it. */
interface IntelSlot {
  readonly key: string;
  readonly slot: number;
  readonly ready: Promise<void>;
  policies: number;
}

/** Slots that the kernel side has. */
const SLOTS_MAX = 16_000;
/** How long a slot that nobody uses is kept: events decided by it are still on their way. */
export const GRACE_MS = 5_000;

/** Policies in the kernel: equal ones share a slot; a slot is one version and never changes. */
export class SlotTable {
  readonly #byFingerprint = new Map<string, Loaded>();
  readonly #bySlot = new Map<number, Loaded>();
  /** By what the fingerprints of policies have of it. */
  readonly #intel = new Map<string, IntelSlot>();
  readonly #internal: readonly string[];
  readonly #logger: Logger;
  #sensor: Sensor | undefined;
  #next = 1;

  /** With the address ranges that are the cluster's own. */
  constructor(internal: readonly string[], logger: Logger) {
    this.#internal = internal;
    this.#logger = logger;
  }

  /** A new sensor knows nothing yet: everything is loaded into it again when it is used. */
  attach(sensor: Sensor | undefined): void {
    this.#sensor = sensor;
    this.#byFingerprint.clear();
    this.#intel.clear();
  }

  /** The slot that holds a policy, loaded where it is not there yet. */
  async acquire(policy: PolicyInForce): Promise<SlotUse> {
    const loaded = this.#byFingerprint.get(policy.fingerprint) ?? this.#load(policy);
    loaded.users += 1;
    try {
      await loaded.ready;
    } catch (error) {
      this.#forget(loaded);
      throw error;
    }
    return loaded.use;
  }

  /** Gives a slot back. */
  release({ slot }: SlotUse): void {
    const loaded = this.#bySlot.get(slot);
    if (!loaded) return;
    loaded.users -= 1;
    if (loaded.users > 0) return;
    setTimeout(() => {
      if (loaded.users > 0 || this.#bySlot.get(slot) !== loaded) return;
      this.#forget(loaded);
      this.#sensor?.dropSlot(slot).catch(() => {});
    }, GRACE_MS).unref();
  }

  /** What a slot held, for events that it decided. */
  of(slot: number): SlotUse | undefined {
    return this.#bySlot.get(slot)?.use;
  }

  #load(policy: PolicyInForce): Loaded {
    const whole = toKernelSlot(policy.policy, this.#internal);
    const { refused, entries } = whole;
    const intel = whole.intel && this.#useIntel(whole.intel);
    const slot = this.#freeSlot();
    const loaded: Loaded = { use: { ...policy, slot, refused, entries }, ready: Promise.resolve(), users: 0, intel };
    loaded.ready = this.#put(loaded, whole);
    this.#byFingerprint.set(policy.fingerprint, loaded);
    this.#bySlot.set(slot, loaded);
    return loaded;
  }

  /**
   * Where the kernel has no room for everything it does with less: without what a model that learns has already, and then
   * without what is known to be bad. It asks about that instead.
   */
  async #put(loaded: Loaded, whole: KernelSlot): Promise<void> {
    const { slot, policy } = loaded.use;
    const sensor = this.#sensor;
    /** Answers why it could not be loaded. */
    const load = async (kernelSlot: KernelSlot): Promise<unknown> => {
      try {
        await sensor?.loadSlot(slot, kernelSlot, loaded.intel?.slot);
        loaded.use = { ...loaded.use, entries: kernelSlot.entries };
        return undefined;
      } catch (error) {
        return error;
      }
    };
    const hasIntel = await this.#hasIntel(loaded);
    const wanted = hasIntel ? whole : toKernelSlot(policy, this.#internal, { hasIntel });
    let error = await load(wanted);
    const told = error ? toKernelSlot(policy, this.#internal, { hasIntel, hasLearned: false }) : wanted;
    if (error && told.entries.length < wanted.entries.length) error = await load(told);
    if (error && loaded.intel) {
      this.#giveUpIntel(loaded, error);
      error = await load(toKernelSlot(policy, this.#internal, { hasIntel: false, hasLearned: false }));
    }
    if (error) throw error;
  }

  async #hasIntel(loaded: Loaded): Promise<boolean> {
    try {
      await loaded.intel?.ready;
      return true;
    } catch (err) {
      this.#giveUpIntel(loaded, err);
      return false;
    }
  }

  #giveUpIntel(loaded: Loaded, err: unknown): void {
    this.#logger.warn({ err }, "what is known to be bad is not in the kernel: it asks about what it would let through");
    this.#leaveIntel(loaded);
  }

  #useIntel(intel: Intel): IntelSlot {
    const key = `${intel.revision}/${intel.count}`;
    const known = this.#intel.get(key);
    const slot = known?.slot ?? this.#freeSlot();
    const ready = known?.ready ?? this.#sensor?.loadSlot(slot, toIntelSlot(intel)) ?? Promise.resolve();
    const used = known ?? { key, slot, ready, policies: 0 };
    used.policies += 1;
    this.#intel.set(key, used);
    return used;
  }

  /** The last policy that refers to it takes it out of the kernel. */
  #leaveIntel(loaded: Loaded): void {
    const { intel } = loaded;
    loaded.intel = undefined;
    if (!intel) return;
    intel.policies -= 1;
    if (intel.policies > 0 || this.#intel.get(intel.key) !== intel) return;
    this.#intel.delete(intel.key);
    this.#sensor?.dropSlot(intel.slot).catch(() => {});
  }

  #freeSlot(): number {
    for (let tries = 0; tries < SLOTS_MAX; tries += 1) {
      const slot = this.#next;
      this.#next = (this.#next % SLOTS_MAX) + 1;
      if (!this.#bySlot.has(slot) && !this.#isOfIntel(slot)) return slot;
    }
    throw new Error(`all ${SLOTS_MAX} policy slots are in use`);
  }

  #isOfIntel(slot: number): boolean {
    return [...this.#intel.values()].some((intel) => intel.slot === slot);
  }

  #forget(loaded: Loaded): void {
    if (this.#bySlot.get(loaded.use.slot) !== loaded) return;
    this.#bySlot.delete(loaded.use.slot);
    if (this.#byFingerprint.get(loaded.use.fingerprint) === loaded) this.#byFingerprint.delete(loaded.use.fingerprint);
    this.#leaveIntel(loaded);
  }
}
