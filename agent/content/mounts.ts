import { readFileSync, readlinkSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { ControlGroup } from "../containers/watched-container.ts";
import type { WatchedMount } from "../wire/encode.ts";

/** File systems that hold no files of anybody, or none that could be run. */
const NO_FILES = new Set([
  "proc",
  "sysfs",
  "cgroup",
  "cgroup2",
  "devpts",
  "mqueue",
  "securityfs",
  "tracefs",
  "debugfs",
  "bpf",
  "nsfs",
]);
/** Mounts of one container that are watched. */
const MOUNTS_MAX = 256;
/** Processes that are asked for the container's mounts: those that are only entering it have the host's. */
const PROCESSES_MAX = 16;

function mountNamespace(pid: number | "self"): string {
  try {
    return readlinkSync(`/proc/${pid}/ns/mnt`);
  } catch {
    return "";
  }
}

/** A path in mountinfo has its blanks and backslashes as octal numbers. */
function unescapeMount(text: string): Buffer {
  return Buffer.from(
    text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8))),
    "latin1",
  );
}

/** Mounts of a process that can be written to, from the text of its mountinfo. */
export function writableMounts(mountinfo: string, pid: number): WatchedMount[] {
  return mountinfo
    .split("\n")
    .flatMap((line): WatchedMount[] => {
      const [own = "", source = ""] = line.split(" - ");
      const [id = "", , , , mountPoint = "", options = ""] = own.split(" ");
      const [type = ""] = source.split(" ");
      if (type === "" || NO_FILES.has(type) || options.split(",").includes("ro")) return [];
      const path = Buffer.concat([Buffer.from(`/proc/${pid}/root`), unescapeMount(mountPoint)]);
      return [{ mountId: BigInt(id), path }];
    })
    .slice(0, MOUNTS_MAX);
}

/** Mounts of a container that runs; none where it has none of its own, or nobody runs in it. */
export async function mountsOf(cgroupMount: string, cgroup: ControlGroup): Promise<WatchedMount[]> {
  const own = mountNamespace("self");
  const procs = await readFile(join(cgroupMount, cgroup.path, "cgroup.procs"), "latin1").catch(() => "");
  for (const pid of procs.split("\n").filter(Boolean).slice(0, PROCESSES_MAX).map(Number)) {
    const namespace = mountNamespace(pid);
    if (pid === 0 || namespace === "" || namespace === own) continue;
    try {
      return writableMounts(readFileSync(`/proc/${pid}/mountinfo`, "latin1"), pid);
    } catch {
      // It has gone meanwhile: another one may do.
    }
  }
  return [];
}
