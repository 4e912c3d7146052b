/**
 * What rules cost one load against a rule for nobody, with the same agent and the same kernel programs at hand: rules are
 * changed every second or so, in an order drawn anew for each cycle. What the change itself leaves to do is let pass first. On
 * a machine that is faster at one time than at another nothing else compares so closely. What the agent takes by itself is not
 * in it; `product.ts` has that.
 */
import { setTimeout } from "node:timers/promises";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { AgentRig } from "../sandbox/agent-rig.ts";
import { attachEmptyProgram, buildEmptyProgram } from "./empty-program.ts";
import { ALL_SECTIONS, DEFAULT_RULE, type LoadOptions, runOnce, SETTLE_MS, type Times, WORK } from "./load-rounds.ts";
import { costsOf, type ProgramCost } from "./program-costs.ts";
import { mean, percentile, printTable, trimmedMean } from "./statistics.ts";

const NOBODY = { scope: { containers: ["none"] } };
const RULES = [
  ["all sections, model learning", ALL_SECTIONS, LearningState.LEARNING],
  ["all sections", ALL_SECTIONS, LearningState.ACTIVE],
  ["default rule", DEFAULT_RULE, LearningState.ACTIVE],
] as const;
const WITHOUT_RULE = ["", NOBODY, LearningState.ACTIVE] as const;
/** The share that the kernel takes for having any program at the end of system calls. */
const EMPTY = "an empty program at system calls";
type Setting = (typeof RULES)[number] | typeof WITHOUT_RULE | readonly [string, typeof NOBODY, LearningState];
const SETTINGS: readonly Setting[] = [...RULES, [EMPTY, NOBODY, LearningState.ACTIVE]] as const;
/** Of the rule for nobody there are more runs: every comparison hangs on it. */
const WITHOUT = 3;

export interface InTurn {
  /** For each cycle what each part took without a rule, in ns. */
  readonly without: readonly Times[];
  /** For each rule, each part and each cycle, per cent more. */
  readonly more: Readonly<Record<string, Readonly<Record<string, readonly number[]>>>>;
  /** What the kernel programs took in one run with all sections, and that run. */
  readonly costs: ReadonlyMap<string, ProgramCost>;
  readonly costsRun: Times;
}

function shuffled<T>(items: readonly T[]): T[] {
  return items
    .map((item) => ({ item, at: Math.random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item);
}

/** The sum of the parts beside each of them. */
function withTotal(times: Times): Times {
  const parts = Object.entries(times).filter(([part]) => part !== WORK);
  return { ...times, total: parts.reduce((sum, [, ns]) => sum + ns, 0) };
}

export async function measureInTurn(
  options: Pick<LoadOptions, "sandbox" | "container" | "run"> & { readonly cycles: number },
): Promise<InTurn> {
  await using rig = await AgentRig.over(options.sandbox, LearningState.LEARNING, ALL_SECTIONS);
  const { events } = await rig.watched(options.container.id);
  for (let i = 0; i < 3; i += 1) await runOnce(options);
  await events.idle();
  const facts = rig.facts();
  const run = async () => withTotal(await runOnce(options));
  buildEmptyProgram();
  const turn = async ([name, rule, state]: Setting): Promise<Times[]> => {
    await rig.rules(rule);
    await rig.activate(state, facts);
    await using _program = name === EMPTY ? await attachEmptyProgram() : undefined;
    await runOnce(options); // binding a policy anew tells what was used before once more
    await setTimeout(SETTLE_MS);
    await runOnce(options);
    return [await run(), await run(), await run(), await run()];
  };
  const without: Times[] = [];
  const more: Record<string, Record<string, number[]>> = {};
  for (let cycle = 0; cycle < options.cycles; cycle += 1) {
    const taken = new Map<string, Times[]>();
    for (const setting of shuffled([...SETTINGS, ...Array.from({ length: WITHOUT }, () => WITHOUT_RULE)])) {
      const [name] = setting;
      taken.set(name, [...(taken.get(name) ?? []), ...(await turn(setting))]);
    }
    const logOf = (name: string, part: string) =>
      mean((taken.get(name) ?? []).map((times) => Math.log(times[part] ?? Number.NaN)));
    const parts = Object.keys(taken.get("")?.[0] ?? {});
    without.push(Object.fromEntries(parts.map((part) => [part, Math.exp(logOf("", part))])));
    for (const [name] of SETTINGS) {
      for (const part of parts) {
        const byPart = more[name] ?? {};
        const ratio = Math.exp(logOf(name, part) - logOf("", part));
        more[name] = { ...byPart, [part]: [...(byPart[part] ?? []), (ratio - 1) * 100] };
      }
    }
  }
  await rig.rules(ALL_SECTIONS);
  await rig.activate(LearningState.ACTIVE, facts);
  await runOnce(options);
  let costsRun: Times = {};
  const costs = await costsOf(async () => {
    costsRun = await run();
  });
  return { without, more, costs, costsRun };
}

export function printInTurn(title: string, parts: Readonly<Record<string, string>>, { without, more }: InTurn): void {
  const names = Object.keys(parts);
  const median = (part: string) =>
    (
      percentile(
        without.map((times) => times[part] ?? Number.NaN),
        0.5,
      ) / 1e6
    ).toFixed(0);
  printTable(
    `${title}, % more time than with a rule for nobody (${without.length} cycles, rules changed in turn, model active where not said otherwise, trimmed mean ± 95 %)`,
    [
      ["", ...Object.values(parts)],
      ["a rule for nobody, ms", ...names.map(median)],
      ...Object.entries(more).map(([name, byPart]) => [
        name,
        ...names.map((part) => {
          const { center, half } = trimmedMean(byPart[part] ?? []);
          return `${center < 0 ? "" : "+"}${center.toFixed(1)} ± ${half.toFixed(1)}`;
        }),
      ]),
    ],
  );
}
