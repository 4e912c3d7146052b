import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { startTicks } from "../containers/runc.ts";
import type { WatchedContainer } from "../containers/watched-container.ts";
import type { Sensor } from "../wire/sensor.ts";

const run = promisify(execFile);
const RUNTIME_TIMEOUT_MS = 10_000;
/** Clock ticks of /proc are 100 a second on all supported systems. */
export const TICK_NS = 10_000_000n;

/** What came of an order to stop. */
export interface StopResult {
  readonly isStopped: boolean;
  readonly note: string;
}

async function killByGroup(sensor: Sensor | undefined, container: WatchedContainer): Promise<string> {
  if (!sensor) return "no sensor";
  return sensor.kill(container.cgroup).then(
    () => "",
    (error: Error) => error.message,
  );
}

/** The runtime is told too, so that it knows that the container was ended on purpose. */
async function killByRuntime(runcBinary: string, container: WatchedContainer): Promise<string> {
  const { root, id } = container.identified.runc;
  return run(runcBinary, ["--root", root, "kill", id, "KILL"], { timeout: RUNTIME_TIMEOUT_MS }).then(
    () => "",
    (error: Error & { stderr?: string }) => (error.stderr ?? error.message).trim(),
  );
}

/** A control group that is not there any more held the container's last process: the kernel was faster. */
const GROUP_GONE = /No such file or directory|Stale file handle/;
const RUNTIME_GONE = /not running|does not exist|no such process/;

/** Stops a container: every process in its control group, then through its runtime. */
export async function stopContainer(
  sensor: Sensor | undefined,
  runcBinary: string,
  container: WatchedContainer,
): Promise<StopResult> {
  const byGroup = await killByGroup(sensor, container);
  const byRuntime = await killByRuntime(runcBinary, container);
  // A group that is on its way out refuses in other words, but then its runtime knows that the container has ended.
  const hasEnded = GROUP_GONE.test(byGroup) || (byGroup !== "" && RUNTIME_GONE.test(byRuntime));
  if (hasEnded) return { isStopped: true, note: "container stopped by the death of its first process" };
  if (byGroup === "") {
    const isToldRuntime = byRuntime === "" || RUNTIME_GONE.test(byRuntime);
    return { isStopped: true, note: `container stopped through its control group${isToldRuntime ? " and runc" : ""}` };
  }
  if (byRuntime === "") return { isStopped: true, note: "container stopped through runc" };
  return { isStopped: false, note: `container not stopped: ${byGroup}; ${byRuntime}` };
}

/** Kills a process, if the pid still is that process. False where it is gone. */
export function killProcess(pid: number, startNs: bigint): boolean {
  if (startTicks(pid) !== startNs / TICK_NS) return false;
  try {
    process.kill(pid, "SIGKILL");
    return true;
  } catch {
    return false;
  }
}
