/**
 * Rounds of one load in one container: without Gabion, learning, active, and with what else could record the same events
 * here. Interleaved; each figure is against what was measured without anything just before and just after that round.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { defaultRule } from "#core/policy/default-rule.ts";
import { LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import { AgentRig } from "../sandbox/agent-rig.ts";
import { type Sandbox, type SandboxContainer, unifiedMount } from "../sandbox/runc.ts";
import { withAuditd, withBpftrace } from "./peers.ts";
import { percentile, printTable, trimmedMean } from "./statistics.ts";

export const ALL_SECTIONS = {
  process: {
    effect: Effect.ALERT,
    detectors: { drift: {}, reverse_shell: {}, lateral_movement: {}, crypto_miner: {} },
  },
  network: { effect: Effect.ALERT, detectors: { port_scan: {}, raw_socket: {} } },
  dns: { effect: Effect.ALERT, detectors: { dns_tunnel: {}, dns_flood: {} } },
  filesystem: {
    effect: Effect.ALERT,
    detectors: { changed_binary: {}, account_files: {}, ssh_files: {}, loader_files: {} },
  },
  syscall: { effect: Effect.ALERT },
};

/**
 * Between a change and what is measured: what it leaves to do, programs that the kernel takes in and out among it, makes
 * everything slower, and keeps a processor awake, which makes short waits shorter.
 */
export const SETTLE_MS = 500;
/** Runs under a setting before those that count: an agent that has just started is not what runs for days. */
const STEADY_RUNS = 4;

/** Runs before the first that counts: a load that its interpreter has just begun to run takes twice as long. */
const WARM_UP = 40;

/** As agents have it by default. */
const SPAN_MS = 15_000;

/** As a new installation has it: look-ups are left alone. */
const OWN = defaultRule();
export const DEFAULT_RULE = Object.fromEntries(
  (["process", "network", "filesystem", "syscall"] as const).map((section) => [section, OWN[section]] as const),
);

/** With which the load is measured, in the order of the table. */
export const SETTINGS = {
  off: "without anything, ms",
  learning: "Gabion learning, all sections",
  active: "Gabion active, all sections",
  default: "Gabion active, default rule",
  bpftrace: "bpftrace",
  auditd: "auditd",
} as const;
export type Setting = keyof typeof SETTINGS;

/** Part of every load: what processors worked for it, its start included and waits not. */
export const WORK = "work";

/** ns that each part of a load took. */
export type Times = Readonly<Record<string, number>>;

export interface LoadOptions {
  readonly sandbox: Sandbox;
  /** For what the others write. */
  readonly directory: string;
  readonly container: SandboxContainer;
  readonly rounds: number;
  /** False: without the others, which take most of the time. */
  readonly withOthers: boolean;
  /** Runs the load once and answers what each part took, as JSON. */
  readonly run: () => Promise<string>;
  /** Runs of which the best counts, for each part: what else the machine does only ever adds. */
  readonly runs: number;
  /** Teaches the model, besides one run of the load, what is measured beside it. */
  readonly teach?: (rig: AgentRig) => Promise<void>;
  /** Further measurements in a setting, before the next one. */
  readonly beside?: (setting: Setting, round: number) => Promise<void>;
}

/** ns that processors have worked for a container since it was made. */
function workOf({ sandbox, container }: Pick<LoadOptions, "sandbox" | "container">): number {
  const path = join(unifiedMount(), sandbox.scope, container.id, "cpu.stat");
  return Number(readFileSync(path, "latin1").match(/^usage_usec (\d+)$/m)?.[1]) * 1_000;
}

/** One run of the load. */
export async function runOnce(options: Pick<LoadOptions, "sandbox" | "container" | "run">): Promise<Times> {
  const before = workOf(options);
  const output = await options.run();
  try {
    return { ...(JSON.parse(output) as Times), [WORK]: workOf(options) - before };
  } catch {
    throw new Error(`the load said: ${output}`);
  }
}

async function measure(options: LoadOptions): Promise<Times> {
  const runs: Times[] = [];
  for (let i = 0; i < options.runs; i += 1) runs.push(await runOnce(options));
  const least = (part: string) => Math.min(...runs.map((times) => times[part] ?? Number.NaN));
  const parts = Object.keys(runs[0] ?? {}).filter((part) => part !== "total" && part !== WORK);
  const best = parts.map((part) => [part, least(part)] as const);
  return { ...Object.fromEntries(best), total: best.reduce((sum, [, ns]) => sum + ns, 0), [WORK]: least(WORK) };
}

/** Measures the load in every setting, as often as there are rounds. */
export async function measureRounds(options: LoadOptions): Promise<Record<Setting, Times[]>> {
  const { sandbox, directory, container } = options;
  const samples: Record<Setting, Times[]> = {
    off: [],
    learning: [],
    active: [],
    default: [],
    bpftrace: [],
    auditd: [],
  };
  const sample = async (setting: Setting, round: number): Promise<void> => {
    for (let i = 0; i < STEADY_RUNS; i += 1) await runOnce(options);
    await setTimeout(SETTLE_MS);
    await runOnce(options);
    samples[setting].push(await measure(options));
    await options.beside?.(setting, round);
  };
  AgentRig.spanMs = SPAN_MS;
  for (let i = 0; i < WARM_UP; i += 1) await runOnce(options);
  for (let round = 0; round < options.rounds; round += 1) {
    await sample("off", round);
    {
      await using rig = await AgentRig.over(sandbox, LearningState.LEARNING, ALL_SECTIONS);
      const { events } = await rig.watched(container.id);
      await runOnce(options);
      await events.idle();
      // As model-service gives the agents what the model has by now.
      await rig.activate(LearningState.LEARNING);
      await sample("learning", round);
      // What the bursts before have left to do must not push out what is to be learned.
      await (await rig.watched(container.id)).events.idle();
      await options.teach?.(rig);
      await (await rig.watched(container.id)).events.idle();
      await rig.activate(LearningState.ACTIVE);
      await sample("active", round);
      await rig.rules(DEFAULT_RULE);
      await sample("default", round);
    }
    if (!options.withOthers) continue;
    const group = `${sandbox.scope}/${container.id}`;
    await withBpftrace(group, directory, () => sample("bpftrace", round));
    await withAuditd(directory, () => sample("auditd", round));
  }
  await sample("off", options.rounds);
  return samples;
}

/** Prints what each setting adds to each part, in per cent with its interval. */
export function printRounds(
  title: string,
  parts: Readonly<Record<string, string>>,
  samples: Record<Setting, Times[]>,
): void {
  const names = Object.keys(parts);
  const without = (part: string, at: number) => samples.off[at]?.[part] ?? Number.NaN;
  const cell = (setting: Setting, part: string): string => {
    const ratios = samples[setting].map(
      (times, i) => ((times[part] ?? Number.NaN) / ((without(part, i) + without(part, i + 1)) / 2) - 1) * 100,
    );
    if (ratios.length === 0) return "not here";
    const { center, half } = trimmedMean(ratios);
    return `${center < 0 ? "" : "+"}${center.toFixed(1)} ± ${half.toFixed(1)}`;
  };
  const median = (part: string) =>
    (
      percentile(
        samples.off.map((times) => times[part] ?? Number.NaN),
        0.5,
      ) / 1e6
    ).toFixed(0);
  const { off, ...watched } = SETTINGS;
  printTable(
    `${title}, % more time than without anything (${samples.active.length} interleaved rounds, trimmed mean ± 95 %)`,
    [
      ["", ...Object.values(parts)],
      [off, ...names.map(median)],
      ...Object.entries(watched).map(([setting, name]) => [
        name,
        ...names.map((part) => cell(setting as Setting, part)),
      ]),
    ],
  );
}
