/**
 * How many false alarms a model gives after it has learned, for workloads that are steady, have a long tail, run by the clock,
 * or make new names for ever. Workloads as in the reference's simulation (rates a container-hour); lifecycle, completeness
 * and families are the product's own code. Alarms are distinct new behaviours in the seven days after the model is active.
 */
import { create } from "@bufbuild/protobuf";
import { estimateCompleteness, UNIT_SECONDS } from "#core/model/completeness.ts";
import { factId } from "#core/model/fact.ts";
import { findFold } from "#core/model/generalise.ts";
import { compileFamily } from "#core/model/item-pattern.ts";
import {
  DEFAULT_DURATIONS,
  type LifecycleDurations,
  newLife,
  type SectionLife,
  stepLife,
} from "#core/model/lifecycle.ts";
import { ContentState } from "#gen/gabion/event/v1/event_pb.ts";
import { type Fact, FactSchema, LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { mean, printTable } from "./statistics.ts";

const HOUR_MS = 3_600_000;
const UNIT_MS = UNIT_SECONDS * 1_000;
const UNIT_HOURS = UNIT_MS / HOUR_MS;
const UNITS_A_DAY = 24 / UNIT_HOURS;
const WATCH_DAYS = 7;
/** Nothing learns longer than this. */
const LONGEST_DAYS = 20;
const REPEATS = Number(process.env["ROUNDS"] ?? 4);

/** mulberry32: the same numbers in every run. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

function gauss(next: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
}

/** A behaviour: by chance at a rate an hour, by the clock, or a new name each time. */
type Behavior =
  | { readonly kind: "chance"; readonly rate: number }
  | { readonly kind: "clock"; readonly everyHours: number; readonly phaseHours: number }
  | { readonly kind: "new"; readonly rate: number };

const WORKLOADS: Readonly<Record<string, (next: () => number) => Behavior[]>> = {
  "steady (50 behaviours)": (next) => [
    ...Array.from({ length: 40 }, () => ({ kind: "chance", rate: 60 * Math.exp(gauss(next) * 1.2) }) as const),
    ...Array.from({ length: 10 }, () => ({ kind: "chance", rate: Math.exp(gauss(next)) }) as const),
  ],
  "long tail (300, Zipf 1.3)": () =>
    Array.from({ length: 300 }, (_, i) => ({ kind: "chance", rate: 20 / (i + 1) ** 1.3 }) as const),
  "cron (hourly, daily, weekly)": (next) => [
    ...Array.from({ length: 30 }, () => ({ kind: "chance", rate: 30 * Math.exp(gauss(next)) }) as const),
    ...[1, 1, 1, 1, 1, 24, 24, 24, 24, 24, 24, 168, 168].map(
      (everyHours) => ({ kind: "clock", everyHours, phaseHours: next() * everyHours }) as const,
    ),
  ],
  "open (new names for ever)": (next) => [
    ...Array.from({ length: 30 }, () => ({ kind: "chance", rate: 30 * Math.exp(gauss(next)) }) as const),
    { kind: "new", rate: 5 } as const,
  ],
};

function file(path: string): Fact {
  return create(FactSchema, { kind: { case: "file", value: { path, processPath: "/usr/bin/app" } } });
}

/** What one container shows in one unit. */
function showUnit(behaviors: readonly Behavior[], unit: number, container: number, next: () => number): Fact[] {
  const [begin, end] = [unit * UNIT_HOURS, (unit + 1) * UNIT_HOURS];
  return behaviors.flatMap((behavior, i) => {
    if (behavior.kind === "chance") return next() < 1 - Math.exp(-behavior.rate * UNIT_HOURS) ? [program(i)] : [];
    if (behavior.kind === "new")
      return next() < behavior.rate * UNIT_HOURS ? [file(`/srv/jobs/job-${Math.floor(next() * 1e9)}`)] : [];
    const last =
      Math.floor((end - behavior.phaseHours) / behavior.everyHours) * behavior.everyHours + behavior.phaseHours;
    return container === 0 && last >= begin && last < end && last >= 0 ? [program(i)] : [];
  });
}

/** What is always the same: a program, which is never part of a family. */
function program(i: number): Fact {
  const value = { path: `/usr/bin/tool-${i}`, name: `tool-${i}`, contentState: ContentState.UNCHANGED };
  return create(FactSchema, { kind: { case: "process", value } });
}

interface Policy {
  readonly name: string;
  readonly durations: LifecycleDurations;
  readonly hasDryRun: boolean;
  readonly folds: boolean;
}

const DAY_MS = 24 * HOUR_MS;
const POLICIES: readonly Policy[] = [
  { name: "1 h alone", durations: DEFAULT_DURATIONS, hasDryRun: false, folds: false },
  { name: "24 h alone", durations: { ...DEFAULT_DURATIONS, learningMs: DAY_MS }, hasDryRun: false, folds: false },
  { name: "1 h and dry run (the seeds)", durations: DEFAULT_DURATIONS, hasDryRun: true, folds: false },
  { name: "Gabion as it is set", durations: DEFAULT_DURATIONS, hasDryRun: true, folds: true },
  {
    name: "Gabion, learning on while > 1/day is to be expected",
    durations: { ...DEFAULT_DURATIONS, extension: { maxNewPerDay: 1, maxMs: 7 * DAY_MS } },
    hasDryRun: true,
    folds: true,
  },
];

/** A section of a model, reduced to what decides about alarms. */
class Section {
  readonly #policy: Policy;
  life: SectionLife = newLife();
  readonly #items = new Map<string, { fact: Fact; units: number }>();
  #families: ((fact: Fact) => boolean)[] = [];
  #units = 0;

  constructor(policy: Policy) {
    this.#policy = policy;
  }

  knows(fact: Fact): boolean {
    return this.#items.has(factId(fact)) || this.#families.some((covers) => covers(fact));
  }

  get isActive(): boolean {
    return (
      this.life.state === LearningState.ACTIVE || (this.life.state === LearningState.DRY_RUN && !this.#policy.hasDryRun)
    );
  }

  /** One unit of one container; answers what is new in it. */
  take(facts: readonly Fact[]): Fact[] {
    const fresh = facts.filter((fact) => !this.knows(fact));
    if (this.isActive) return fresh;
    this.#units += 1;
    for (const fact of facts) this.#learn(fact);
    if (fresh.length > 0) this.#step({ kind: "deviation" });
    const { extension } = this.#policy.durations;
    const singletons = [...this.#items.values()].filter(({ units }) => units === 1).length;
    const upper = estimateCompleteness(this.#units, singletons)?.expectedNewPerDayUpper ?? Number.POSITIVE_INFINITY;
    const isUnfinished =
      extension !== undefined && this.life.observedMs < extension.maxMs && upper > extension.maxNewPerDay;
    this.#step({ kind: "observed", ms: UNIT_MS, isUnfinished });
    return fresh;
  }

  elapse(): void {
    if (!this.isActive) this.#step({ kind: "elapsed", ms: UNIT_MS });
  }

  #step(event: Parameters<typeof stepLife>[1]): void {
    this.life = stepLife(this.life, event, this.#policy.durations).life;
  }

  #learn(fact: Fact): void {
    const id = factId(fact);
    const known = this.#items.get(id);
    if (known) known.units += 1;
    if (known || this.knows(fact)) return;
    this.#items.set(id, { fact, units: 1 });
    if (!this.#policy.folds) return;
    const fold = findFold(
      { id, fact },
      [...this.#items].map(([each, item]) => ({ id: each, fact: item.fact })),
    );
    if (!fold) return;
    for (const member of fold.members) this.#items.delete(member);
    this.#items.set(factId(fold.family), { fact: fold.family, units: 3 });
    this.#families = [...this.#families, compileFamily(fold.family)];
  }
}

/** Alarms a day after the model is active, and after how many hours it was. */
function simulate(behaviors: readonly Behavior[], containers: number, policy: Policy, seed: number) {
  const next = random(seed);
  const section = new Section(policy);
  const alarms = new Set<string>();
  let activeAt: number | undefined;
  for (let unit = 0; unit < LONGEST_DAYS * UNITS_A_DAY; unit += 1) {
    const shown = Array.from({ length: containers }, (_, i) => showUnit(behaviors, unit, i, next));
    const fresh = shown.flatMap((facts) => section.take(facts));
    if (activeAt !== undefined) for (const fact of fresh) alarms.add(factId(fact));
    section.elapse();
    if (section.isActive) activeAt ??= unit + 1;
    if (activeAt !== undefined && unit - activeAt >= WATCH_DAYS * UNITS_A_DAY) break;
  }
  return { alarmsADay: alarms.size / WATCH_DAYS, hours: (activeAt ?? 0) * UNIT_HOURS };
}

const rows = Object.entries(WORKLOADS).flatMap(([name, make]) =>
  [1, 10].map((containers) => [
    `${name}, ${containers} container${containers === 1 ? "" : "s"}`,
    ...POLICIES.map((policy) => {
      const runs = Array.from({ length: REPEATS }, (_, i) =>
        simulate(make(random(i + 1)), containers, policy, 1_000 + i),
      );
      return `${mean(runs.map(({ alarmsADay }) => alarmsADay / containers)).toFixed(2)} @${mean(runs.map(({ hours }) => hours)).toFixed(0)} h`;
    }),
  ]),
);
printTable(
  `false alarms per container-day in the ${WATCH_DAYS} days after a model is active @ hours until then (mean of ${REPEATS})`,
  [["workload", ...POLICIES.map(({ name }) => name)], ...rows],
);
