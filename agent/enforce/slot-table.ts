import type { Intel } from "#core/intel/intel-set.ts";
import type { CompiledContainerPolicy } from "#core/policy/container-policy.ts";
import { toIntelSlot } from "#core/policy/kernel-intel.ts";
import { type KernelEntry, type KernelSlot, type RefusedPath, toKernelSlot } from "#core/policy/kernel-slot.ts";
import type { Section } from "#gen/gabion/event/v1/event_pb.ts";
import type { Completeness } from "#gen/gabion/model/v1/model_pb.ts";
import type { Rule } from "#gen/gabion/rule/v1/rule_pb.ts";
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
  readonly intel: IntelSlot | undefined;
}

/** Intelligence in the kernel, for all policies that refer to it. */
interface IntelSlot {
  readonly of: Intel;
  readonly slot: number;
  readonly ready: Promise<void>;
  policies: number;
}

/** Slots that the kernel side has. */
const SLOTS_MAX = 16_000;
/** How long a slot that nobody uses is kept: events decided by it are still on their way. */
const GRACE_MS = 5_000;

/** Policies in the kernel: equal ones share a slot; a slot is one version and never changes. */
export class SlotTable {
  readonly #byFingerprint = new Map<string, Loaded>();
  readonly #bySlot = new Map<number, Loaded>();
  readonly #intel = new Map<Intel, IntelSlot>();
  readonly #internal: readonly string[];
  #sensor: Sensor | undefined;
  #next = 1;

  /** With the address ranges that are the cluster's own. */
  constructor(internal: readonly string[]) {
    this.#internal = internal;
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
    const slot = this.#freeSlot();
    const whole = toKernelSlot(policy.policy, this.#internal);
    const { refused, entries } = whole;
    const intel = whole.intel && this.#useIntel(whole.intel);
    const loaded: Loaded = { use: { ...policy, slot, refused, entries }, ready: Promise.resolve(), users: 0, intel };
    loaded.ready = this.#put(loaded, whole);
    this.#byFingerprint.set(policy.fingerprint, loaded);
    this.#bySlot.set(slot, loaded);
    return loaded;
  }

  /** Where the kernel has no room for what a model that learns has already, it asks about that too. */
  async #put(loaded: Loaded, whole: KernelSlot): Promise<void> {
    const { slot, policy } = loaded.use;
    const sensor = this.#sensor;
    await loaded.intel?.ready;
    try {
      await sensor?.loadSlot(slot, whole, loaded.intel?.slot);
    } catch (error) {
      const told = toKernelSlot(policy, this.#internal, true);
      if (told.entries.length === whole.entries.length) throw error;
      await sensor?.loadSlot(slot, told, loaded.intel?.slot);
      loaded.use = { ...loaded.use, entries: told.entries };
    }
  }

  #useIntel(intel: Intel): IntelSlot {
    const known = this.#intel.get(intel);
    const slot = known?.slot ?? this.#freeSlot();
    const used = known ?? {
      of: intel,
      slot,
      ready: this.#sensor?.loadSlot(slot, toIntelSlot(intel)) ?? Promise.resolve(),
      policies: 0,
    };
    used.policies += 1;
    this.#intel.set(intel, used);
    return used;
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
    const { intel } = loaded;
    if (!intel) return;
    intel.policies -= 1;
    if (intel.policies > 0 || this.#intel.get(intel.of) !== intel) return;
    this.#intel.delete(intel.of);
    this.#sensor?.dropSlot(intel.slot).catch(() => {});
  }
}
