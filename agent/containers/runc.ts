import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join, resolve } from "node:path";
import { z } from "zod";

/** A container as runc knows it. */
export interface RuncContainer {
  readonly id: string;
  /** Folder of runc's state, given with `--root`. */
  readonly root: string;
  readonly bundle: string;
  /** Host pid of its first process; undefined while it is being made. */
  readonly initPid: number | undefined;
}

const DEFAULT_ROOT = "/run/runc";
/** Options that take a value, of runc itself and of its commands that make containers. */
const WITH_VALUE = new Set([
  "--root",
  "--log",
  "--log-format",
  "--criu",
  "--rootless",
  "--bundle",
  "-b",
  "--console-socket",
  "--pid-file",
  "--preserve-fds",
]);
const MAKING = new Set(["run", "create", "restore"]);

interface ParsedCommand {
  readonly options: ReadonlyMap<string, string>;
  readonly words: readonly string[];
}

function parseCommand(args: readonly string[]): ParsedCommand {
  const options = new Map<string, string>();
  const words: string[] = [];
  for (let at = 0; at < args.length; at += 1) {
    const word = args[at] as string;
    const equals = word.indexOf("=");
    if (!word.startsWith("-")) words.push(word);
    else if (equals > 0) options.set(word.slice(0, equals), word.slice(equals + 1));
    else if (WITH_VALUE.has(word)) {
      at += 1;
      options.set(word, args[at] ?? "");
    }
  }
  return { options, words };
}

/** The container that a runc command makes, from its arguments and working directory; undefined where it makes none. */
export function parseRuncCommand(args: readonly string[], cwd: string): RuncContainer | undefined {
  const { options, words } = parseCommand(args.slice(1));
  const id = words[1];
  if (!MAKING.has(words[0] ?? "") || id === undefined) return undefined;
  const bundle = resolve(cwd, options.get("--bundle") ?? options.get("-b") ?? ".");
  return { id, root: resolve(cwd, options.get("--root") ?? DEFAULT_ROOT), bundle, initPid: undefined };
}

/** The container that a process is about to make: runc waits while its control group is held, so it can be asked. */
export function containerMadeBy(pid: number): RuncContainer | undefined {
  try {
    const args = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").slice(0, -1);
    return parseRuncCommand(args, readlinkSync(`/proc/${pid}/cwd`));
  } catch {
    return undefined;
  }
}

const STATE = z.object({
  id: z.string(),
  init_process_pid: z.number().default(0),
  init_process_start: z.number().default(0),
  config: z.object({ labels: z.array(z.string()).default([]) }),
});

function readState(root: string, id: string): RuncContainer | undefined {
  try {
    const state = STATE.parse(JSON.parse(readFileSync(join(root, id, "state.json"), "utf8")));
    const bundle = state.config.labels.find((label) => label.startsWith("bundle="))?.slice("bundle=".length);
    const pid = state.init_process_pid;
    // A pid is used again: only the process that runc started is the container's.
    if (bundle === undefined || pid === 0 || startTicks(pid) !== BigInt(state.init_process_start)) return undefined;
    return { id: state.id, root, bundle, initPid: state.init_process_pid };
  } catch {
    return undefined;
  }
}

/** Containers that run now, from runc's own state below the given roots. */
export function listRuncContainers(roots: readonly string[]): RuncContainer[] {
  return roots.flatMap((root) => {
    let ids: string[];
    try {
      ids = readdirSync(root);
    } catch {
      return [];
    }
    return ids.flatMap((id) => {
      const container = readState(root, id);
      return container && controlGroupOf(container.initPid ?? 0) !== undefined ? [container] : [];
    });
  });
}

/** Start of a process in clock ticks since boot; undefined where it is gone. */
export function startTicks(pid: number): bigint | undefined {
  try {
    const status = readFileSync(`/proc/${pid}/stat`, "latin1");
    return BigInt(status.slice(status.lastIndexOf(")") + 2).split(" ")[19] ?? "0");
  } catch {
    return undefined;
  }
}

/** Path of a process's control group below the cgroup v2 mount; undefined where the process is gone. */
export function controlGroupOf(pid: number): string | undefined {
  try {
    const lines = readFileSync(`/proc/${pid}/cgroup`, "utf8").split("\n");
    return lines.find((line) => line.startsWith("0::"))?.slice(3);
  } catch {
    return undefined;
  }
}

/** Number of a process's pid namespace; undefined where it cannot be read. */
export function pidNamespaceAt(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}
