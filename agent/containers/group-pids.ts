import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

/** How much of a control group is looked at. */
export interface GroupBounds {
  readonly processes: number;
  readonly groups: number;
}

/** Pids in a control group and all below it: with nested groups there are none in the upper ones. */
export async function pidsBelow(
  directory: string,
  { processes, groups }: GroupBounds,
): Promise<{ readonly pids: number[]; readonly isComplete: boolean }> {
  const pids: number[] = [];
  const pending = [directory];
  for (let at = 0; at < pending.length && at < groups && pids.length < processes; at += 1) {
    const group = pending[at] as string;
    const text = await readFile(join(group, "cgroup.procs"), "latin1").catch(() => "");
    // 0 stands for a process that cannot be seen from here.
    for (const line of text.split("\n")) if (Number(line) > 0) pids.push(Number(line));
    const entries = await readdir(group, { withFileTypes: true }).catch(() => []);
    for (const entry of entries) if (entry.isDirectory()) pending.push(join(group, entry.name));
  }
  return { pids: pids.slice(0, processes), isComplete: pids.length <= processes && pending.length <= groups };
}
