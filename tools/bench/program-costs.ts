/** What each kernel program of the sensor took, by the kernel's own statistics. */
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { printTable } from "./statistics.ts";

const SWITCH = "/proc/sys/kernel/bpf_stats_enabled";

interface Shown {
  readonly name: string;
  readonly run_time_ns?: number;
  readonly run_cnt?: number;
}

export interface ProgramCost {
  readonly ns: number;
  readonly count: number;
}

function programCosts(): Map<string, ProgramCost> {
  const env = { ...process.env, PATH: `${process.env["PATH"]}:/usr/sbin` };
  const shown = JSON.parse(
    execFileSync("bpftool", ["-j", "prog", "show"], { env, maxBuffer: 1 << 26 }).toString(),
  ) as Shown[];
  const costs = new Map<string, ProgramCost>();
  for (const { name, run_time_ns: ns = 0, run_cnt: count = 0 } of shown.filter((p) => p.name?.startsWith("handle_"))) {
    const before = costs.get(name) ?? { ns: 0, count: 0 };
    costs.set(name, { ns: before.ns + ns, count: before.count + count });
  }
  return costs;
}

/** Runs something with the statistics switched on, which add some 45 ns to each run of a program, more in slow hours. */
export async function costsOf(run: () => Promise<unknown>): Promise<Map<string, ProgramCost>> {
  writeFileSync(SWITCH, "1");
  const before = programCosts();
  await run();
  const after = programCosts();
  writeFileSync(SWITCH, "0");
  const since = [...after].map(([name, { ns, count }]) => {
    const was = before.get(name) ?? { ns: 0, count: 0 };
    return [name, { ns: ns - was.ns, count: count - was.count }] as const;
  });
  return new Map(since.filter(([, { count }]) => count > 0));
}

export function printCosts(title: string, costs: ReadonlyMap<string, ProgramCost>): void {
  printTable(`${title}: by the kernel's statistics, whose own clock readings are in it`, [
    ["program", "runs", "ns each", "ms"],
    ...[...costs]
      .sort()
      .map(([name, { ns, count }]) => [name, String(count), (ns / count).toFixed(0), (ns / 1e6).toFixed(2)]),
  ]);
}
