import { readFileSync, readlinkSync } from "node:fs";
import { create } from "@bufbuild/protobuf";
import { escapeBytes } from "#core/text/escape.ts";
import { type Process, ProcessSchema } from "#gen/gabion/event/v1/event_pb.ts";

/** Processes remembered; the oldest go first. */
const CAPACITY = 50_000;
const ANCESTORS_MAX = 16;

interface Entry {
  readonly process: Process;
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
    const process = create(ProcessSchema, { execId: execId(bootId, pid, 0n), pid, path, name });
    return { process, startNs: 0n, parentPid };
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

  /** Ancestors, nearest first, up to the container's first process or what made it. A pid that was used again is not one. */
  ancestors(parentPid: number, parentStartNs: bigint): Process[] {
    const found: Process[] = [];
    const known = this.#entries.get(parentPid);
    // 0 where the asker does not know when the process began.
    if (known && known.startNs !== 0n && parentStartNs !== 0n && known.startNs !== parentStartNs)
      this.#entries.delete(parentPid);
    let pid = parentPid;
    while (pid > 1 && found.length < ANCESTORS_MAX) {
      const entry = this.#entries.get(pid) ?? this.#adopt(pid);
      if (!entry || found.some(({ execId: id }) => id === entry.process.execId)) break;
      // Arguments are told with the process itself; here they would only make audits large.
      found.push(create(ProcessSchema, { ...entry.process, args: [], cwd: "" }));
      pid = entry.parentPid;
    }
    return found;
  }

  #adopt(pid: number): Entry | undefined {
    const entry = fromProc(this.#bootId, pid);
    if (entry) this.add(entry.process, entry.startNs, entry.parentPid);
    return entry;
  }
}
