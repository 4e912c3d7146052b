import { type ChildProcess, spawn } from "node:child_process";
import type { KernelSlot } from "#core/policy/kernel-slot.ts";
import { FrameReader } from "./decode.ts";
import {
  encodeControl,
  encodeFiles,
  encodeMounts,
  encodeProtect,
  encodeSlot,
  type KnownFile,
  type ProtectEntry,
  type WatchedMount,
} from "./encode.ts";
import type { HelloFrame, SensorFrame } from "./frames.ts";
import { FrameType } from "./layout.ts";

/** Why the sensor could not be started, or has ended. */
export class SensorError extends Error {
  override readonly name = "SensorError";
}

export interface SensorOptions {
  readonly binary: string;
  /** Part of the control group tree that is watched, `/` for all. */
  readonly scope: string;
  /** Where cgroup v2 is mounted. */
  readonly mount: string;
  /** Longest time that a new container is held, 0 for never. */
  readonly holdMs: number;
  /** Holds every new group, not only those made by a container runtime. */
  readonly holdsAll?: boolean;
  readonly isMeasuring?: boolean;
  readonly onFrame: (frame: Exclude<SensorFrame, { kind: "ack" | "hello" }>) => void;
  /** Called once, when the process is gone. */
  readonly onEnd: (reason: string) => void;
}

const ANSWER_TIMEOUT_MS = 10_000;
/** A container must never hang for more than 3 s, whatever becomes of the sensor. */
const PING_TIMEOUT_MS = 1_500;
/** How long an answer may still be behind what has come meanwhile. */
const BACKLOG_MS = 500;
/** Loading the programs takes seconds, and many of them on a machine that is starting everything else. */
const START_TIMEOUT_MS = 60_000;
const STDERR_MAX = 8192;
/** Orders in flight; more is a fault of the agent. */
const REQUESTS_MAX = 100_000;

/** A control group: its number and its path below the mount. */
interface Group {
  readonly id: bigint;
  readonly path: string;
}

interface Waiting {
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
  timer: NodeJS.Timeout;
}

/** A running sensor process. Closing it detaches everything that it attached. */
export class Sensor implements AsyncDisposable {
  readonly #process: ChildProcess;
  readonly #options: SensorOptions;
  readonly #waiting = new Map<number, Waiting>();
  readonly #ended = Promise.withResolvers<void>();
  readonly #started = Promise.withResolvers<HelloFrame>();
  #request = 0;
  /** Pieces of its output that have been read. */
  #heard = 0;
  #stderr = "";
  #isEnded = false;

  private constructor(options: SensorOptions) {
    this.#options = options;
    const flags = [options.holdsAll ? "--hold-all" : "", options.isMeasuring ? "--measure" : ""].filter(Boolean);
    const args = ["--scope", options.scope, "--mount", options.mount, "--hold-ms", String(options.holdMs), ...flags];
    this.#process = spawn(options.binary, args, { stdio: ["pipe", "pipe", "pipe"] });
    this.#listen();
  }

  /** Starts the sensor and waits for its hello. Fails with what it said where it cannot run. */
  static async open(options: SensorOptions): Promise<{ sensor: Sensor; hello: HelloFrame }> {
    const sensor = new Sensor(options);
    const timer = setTimeout(() => sensor.#end(`no hello within ${START_TIMEOUT_MS / 1_000} s`), START_TIMEOUT_MS);
    try {
      return { sensor, hello: await sensor.#started.promise };
    } finally {
      clearTimeout(timer);
    }
  }

  get pid(): number {
    return this.#process.pid ?? 0;
  }

  /** Loads a policy slot whole, or leaves nothing of it. Intelligence that it refers to has a slot that is loaded already. */
  async loadSlot(slot: number, policy: KernelSlot, intelSlot = 0): Promise<void> {
    try {
      await this.#sendAll(encodeSlot(slot, policy, () => this.#nextRequest(), intelSlot));
    } catch (error) {
      // What was on its way behind the part that was refused has been loaded.
      await this.dropSlot(slot);
      throw error;
    }
  }

  async dropSlot(slot: number): Promise<void> {
    await this.#send(FrameType.SLOT_DROP, { slot });
  }

  /** Gives a container's control group, and all below it, a loaded slot. */
  async bind(cgroup: Group, slot: number, { flags, device }: { flags: number; device: number }): Promise<void> {
    await this.#send(FrameType.BIND, { cgroupId: cgroup.id, path: cgroup.path, slot, flags, device });
  }

  /** Makes a control group one that is none of the agent's business. */
  async unbind(cgroup: Group): Promise<void> {
    await this.#send(FrameType.UNBIND, { cgroupId: cgroup.id, path: cgroup.path });
  }

  /** Lets a held container go on. */
  async thaw(cgroup: Group): Promise<void> {
    await this.#send(FrameType.THAW, { cgroupId: cgroup.id, path: cgroup.path });
  }

  /** Ends everything in a control group. */
  async kill(cgroup: Group): Promise<void> {
    await this.#send(FrameType.KILL, { cgroupId: cgroup.id, path: cgroup.path });
  }

  /** Attaches exactly these of the program groups that cost the whole machine something. */
  async sense(groups: number): Promise<void> {
    await this.#send(FrameType.SENSE, { flags: groups });
  }

  /** Replaces what is refused in a container by the file system watch. */
  async protect(cgroup: Group, slot: number, entries: readonly ProtectEntry[]): Promise<void> {
    const body = encodeProtect(entries);
    if (!body) throw new SensorError(`${entries.length} paths are more than can be watched in one container`);
    const request = this.#nextRequest();
    const fields = { cgroupId: cgroup.id, path: cgroup.path, slot, count: entries.length };
    await this.#post(request, encodeControl(FrameType.PROTECT, request, fields, body));
  }

  /** Replaces the mounts of a container whose written files are told. */
  async watch(cgroup: Group, slot: number, mounts: readonly WatchedMount[]): Promise<void> {
    const request = this.#nextRequest();
    const fields = { cgroupId: cgroup.id, path: cgroup.path, slot, count: mounts.length };
    await this.#post(request, encodeControl(FrameType.WATCH, request, fields, encodeMounts(mounts)));
  }

  async putFiles(files: readonly KnownFile[]): Promise<void> {
    if (files.length > 0) await this.#sendAll(encodeFiles(FrameType.FILES_PUT, files, () => this.#nextRequest()));
  }

  async dropFiles(files: readonly KnownFile[]): Promise<void> {
    if (files.length > 0) await this.#sendAll(encodeFiles(FrameType.FILES_DROP, files, () => this.#nextRequest()));
  }

  /** Asks whether it lives. One that does not answer in time is ended: opens of containers may be waiting for it. */
  async ping(): Promise<void> {
    const request = this.#nextRequest();
    await this.#post(request, encodeControl(FrameType.PING, request, {}), PING_TIMEOUT_MS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.stdin?.end();
    const timer = setTimeout(() => this.#process.kill("SIGKILL"), 5_000);
    await this.#ended.promise;
    clearTimeout(timer);
  }

  #nextRequest(): number {
    this.#request = (this.#request + 1) >>> 0;
    return this.#request;
  }

  #send(type: FrameType, fields: Parameters<typeof encodeControl>[2]): Promise<void> {
    const request = this.#nextRequest();
    return this.#post(request, encodeControl(type, request, fields));
  }

  async #sendAll(frames: readonly [number, Buffer][]): Promise<void> {
    const answers = await Promise.allSettled(frames.map(([request, frame]) => this.#post(request, frame)));
    const refused = answers.find((answer) => answer.status === "rejected");
    if (refused) throw refused.reason;
  }

  #post(request: number, frame: Buffer, timeoutMs = ANSWER_TIMEOUT_MS): Promise<void> {
    if (this.#isEnded) return Promise.reject(new SensorError("the sensor has ended"));
    if (this.#waiting.size >= REQUESTS_MAX) return Promise.reject(new SensorError("too many orders are unanswered"));
    return new Promise((resolve, reject) => {
      this.#waiting.set(request, { resolve, reject, timer: this.#expect(request, timeoutMs, false) });
      this.#process.stdin?.write(frame);
    });
  }

  /**
   * Ends a sensor that does not answer. It may be the agent that had no time to read: what is there is read first, and where
   * that is something the answer may be behind it, and has a little longer.
   */
  #expect(request: number, timeoutMs: number, isLast: boolean): NodeJS.Timeout {
    return setTimeout(() => {
      const heard = this.#heard;
      setImmediate(() => {
        const waiting = this.#waiting.get(request);
        if (!waiting) return;
        if (isLast || this.#heard === heard) this.#end(`an order was not answered within ${timeoutMs / 1_000} s`);
        else waiting.timer = this.#expect(request, Math.min(timeoutMs, BACKLOG_MS), true);
      });
    }, timeoutMs);
  }

  #listen(): void {
    const reader = new FrameReader();
    this.#process.stdin?.on("error", () => {});
    this.#process.stdout?.on("data", (chunk: Buffer) => {
      this.#heard += 1;
      for (const frame of reader.read(chunk)) {
        if (frame.kind === "fault") {
          this.#end(`the sensor sent what is no frame: ${frame.message}`);
          return;
        }
        this.#take(frame);
      }
    });
    this.#process.stderr?.on("data", (chunk: Buffer) => {
      this.#stderr = (this.#stderr + chunk.toString("utf8")).slice(-STDERR_MAX);
    });
    this.#process.on("error", (error) => this.#finish(error.message));
    this.#process.on("close", (code, signal) =>
      this.#finish(`${signal ?? `exit status ${code}`} ${this.#stderr.trim()}`.trim()),
    );
  }

  #take(frame: SensorFrame): void {
    if (frame.kind === "hello") {
      this.#started.resolve(frame);
    } else if (frame.kind === "ack") {
      const waiting = this.#waiting.get(frame.request);
      if (!waiting) return;
      this.#waiting.delete(frame.request);
      clearTimeout(waiting.timer);
      if (frame.error === 0) waiting.resolve();
      else waiting.reject(new SensorError(`the sensor refused an order: ${frame.message}`));
    } else {
      this.#options.onFrame(frame);
    }
  }

  /** A sensor that cannot be trusted any more is ended; the caller starts another. */
  #end(reason: string): void {
    this.#stderr = `${this.#stderr} ${reason}`;
    this.#process.kill("SIGKILL");
  }

  #finish(reason: string): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(new SensorError(`the sensor ended: ${reason}`));
    }
    this.#waiting.clear();
    this.#started.promise.catch(() => {});
    this.#started.reject(new SensorError(`the sensor ended: ${reason}`));
    this.#ended.resolve();
    this.#options.onEnd(reason);
  }
}
