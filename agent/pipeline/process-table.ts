import { readFileSync, readlinkSync } from "node:fs";
import { create } from "@bufbuild/protobuf";
import { escapeBytes } from "#core/text/escape.ts";
import { type Process, ProcessSchema } from "#gen/gabion/event/v1/event_pb.ts";
import { startTicks } from "../containers/runc.ts";
import { TICK_NS } from "../enforce/stop.ts";

/** Processes remembered; the oldest go first. */
const CAPACITY = 50_000;
const ANCESTORS_MAX = 16;

interface Entry {
  readonly process: Process;
  /** Since boot; as exact as 10 ms where it is from /proc. */
  readonly startNs: bigint;
  readonly parentPid: number;
}

/** Identity of a process that no other process ever has. */
export function execId(bootId: string, pid: number, startNs: bigint): string {
  return `${bootId.slice(0, 8)}-${pid}-${startNs}`;
}

/** A process as /proc shows it: enough to name an ancestor that was there before its exec could be seen. */
function fromProc(bootId: string, pid: number): Entry | undefined {
  try {
    const path = escapeBytes(readlinkSync(`/proc/${pid}/exe`, { encoding: "buffer" }));
    const status = readFileSync(`/proc/${pid}/stat`, "latin1");
    const parentPid = Number(status.slice(status.lastIndexOf(")") + 2).split(" ")[1]);
    const name = path.slice(path.lastIndexOf("/") + 1);
    const ticks = startTicks(pid);
    if (ticks === undefined) return undefined;
    const startNs = ticks * TICK_NS;
    const process = create(ProcessSchema, { execId: execId(bootId, pid, startNs), pid, path, name });
    return { process, startNs, parentPid };
  } catch {
    return undefined;
  }
}

/** Who runs in the containers, so that an exec can be told with its ancestors. */
export class ProcessTable {
  readonly #bootId: string;
  readonly #entries = new Map<number, Entry>();

  constructor(bootId: string) {
    this.#bootId = bootId;
  }

  add(process: Process, startNs: bigint, parentPid: number): void {
    this.#entries.delete(process.pid);
    this.#entries.set(process.pid, { process, startNs, parentPid });
    if (this.#entries.size > CAPACITY) {
      const oldest = this.#entries.keys().next().value;
      if (oldest !== undefined) this.#entries.delete(oldest);
    }
  }

  remove(pid: number): void {
    this.#entries.delete(pid);
  }

  /** A process whose exec was seen; undefined for another one that had its pid before or has it now. */
  find(pid: number, startNs: bigint): Process | undefined {
    const entry = this.#entries.get(pid);
    return entry?.startNs === startNs ? entry.process : undefined;
  }

  /**
   * Ancestors, nearest first, up to the container's first process or what made it. `parentStartNs` is 0 where it is not known
   * when the parent began. A process that has the pid of another one that ended is no ancestor.
   */
  ancestors(parentPid: number, parentStartNs: bigint): Process[] {
    const found: Process[] = [];
    let pid = parentPid;
    let isIt = (startNs: bigint) => parentStartNs === 0n || isSameTick(startNs, parentStartNs);
    while (pid > 1 && found.length < ANCESTORS_MAX) {
      const entry = this.#entryOf(pid, isIt);
      if (!entry || found.some(({ execId: id }) => id === entry.process.execId)) break;
      // Arguments are told with the process itself; here they would only make audits large.
      found.push(create(ProcessSchema, { ...entry.process, args: [], cwd: "" }));
      pid = entry.parentPid;
      isIt = (startNs) => startNs / TICK_NS <= entry.startNs / TICK_NS;
    }
    return found;
  }

  /** The process with a pid, if it is the one that is meant: as it is known, or else as it is now. */
  #entryOf(pid: number, isIt: (startNs: bigint) => boolean): Entry | undefined {
    const known = this.#entries.get(pid);
    if (known && isIt(known.startNs)) return known;
    const entry = fromProc(this.#bootId, pid);
    if (!entry || !isIt(entry.startNs)) return undefined;
    this.add(entry.process, entry.startNs, entry.parentPid);
    return entry;
  }
}

function isSameTick(a: bigint, b: bigint): boolean {
  return a / TICK_NS === b / TICK_NS;
}
