import { statSync } from "node:fs";
import { join } from "node:path";
import type { Logger } from "#lib/telemetry/log.ts";
import type { HashCache } from "../content/hash-cache.ts";
import type { CgroupFrame, ExecFrame } from "../wire/frames.ts";
import { CgroupFlag } from "../wire/layout.ts";
import type { Sensor } from "../wire/sensor.ts";
import { identifyContainer } from "./identify.ts";
import { isOwnControlGroup, readBundle } from "./oci-bundle.ts";
import { containerMadeBy, controlGroupOf, listRuncContainers, pidNamespaceAt, type RuncContainer } from "./runc.ts";
import { type ControlGroup, WatchedContainer } from "./watched-container.ts";

export interface ContainerWatchOptions {
  readonly nodeId: string;
  /** Watched part of the control group tree. */
  readonly scope: string;
  readonly cgroupMount: string;
  readonly runcRoots: readonly string[];
  readonly cache: HashCache;
  readonly holdMs: number;
  readonly logger: Logger;
  /** A container is known: bring its policy into force. It is held until this is done, within the bound. */
  readonly onAppear: (container: WatchedContainer, signal: AbortSignal) => Promise<void>;
  readonly onExec: (container: WatchedContainer, frame: ExecFrame) => void;
  readonly onGone: (container: WatchedContainer) => void;
  /** Execs that came before their container was known and found no room. */
  readonly onLost: (count: number) => void;
}

/** Execs of a control group that is not known yet. */
const PENDING_MAX = 2_000;
/** Reading a container that is not held may take longer. */
const IDENTIFY_MS = 60_000;

interface Pending {
  readonly frames: ExecFrame[];
  isEnded: boolean;
}

/** Knows which control group is which container: new ones as they are made, running ones at the start. */
export class ContainerWatch {
  readonly #options: ContainerWatchOptions;
  readonly #containers = new Map<bigint, WatchedContainer>();
  readonly #pending = new Map<bigint, Pending>();
  /** Runc roots seen in use, beside those of the settings. */
  readonly #roots: Set<string>;
  #sensor: Sensor | undefined;

  constructor(options: ContainerWatchOptions) {
    this.#options = options;
    this.#roots = new Set(options.runcRoots);
  }

  /** Containers under watch. */
  all(): WatchedContainer[] {
    return [...this.#containers.values()];
  }

  byId(containerId: string): WatchedContainer | undefined {
    return this.all().find((container) => container.id === containerId);
  }

  byGroup(cgroupId: bigint): WatchedContainer | undefined {
    return this.#containers.get(cgroupId);
  }

  attach(sensor: Sensor | undefined): void {
    this.#sensor = sensor;
  }

  takeExec(frame: ExecFrame): void {
    const container = this.#containers.get(frame.cgroupId);
    if (container?.use) {
      this.#options.onExec(container, frame);
      return;
    }
    const pending = this.#pending.get(frame.cgroupId);
    if (pending && pending.frames.length < PENDING_MAX) pending.frames.push(frame);
    else if (pending || container) this.#options.onLost(1);
  }

  /** A control group was made, emptied or removed. */
  takeGroup(frame: CgroupFrame): void {
    if (frame.kind === "cgroup_new") {
      if ((frame.flags & CgroupFlag.NESTED) === 0) void this.#takeNew(frame);
      return;
    }
    const pending = this.#pending.get(frame.cgroupId);
    if (pending) pending.isEnded = true;
    const container = this.#containers.get(frame.cgroupId);
    if (container) this.#end(container);
  }

  /** Finds containers that run already, and those whose making was missed. */
  async scan(): Promise<void> {
    const known = new Set(this.all().map((container) => container.cgroup.path));
    for (const runc of listRuncContainers([...this.#roots])) {
      const path = controlGroupOf(runc.initPid ?? 0);
      if (path === undefined || known.has(path) || !this.#isInScope(path)) continue;
      const cgroup = { id: this.#idOf(path), path };
      if (this.#pending.has(cgroup.id)) continue;
      await this.#appear(runc, cgroup, { isHeld: false, isPartlySeen: true });
    }
  }

  #isInScope(path: string): boolean {
    return this.#options.scope === "/" ? path !== "/" : path.startsWith(`${this.#options.scope}/`);
  }

  #idOf(path: string): bigint {
    return statSync(join(this.#options.cgroupMount, path), { bigint: true }).ino;
  }

  async #takeNew(frame: CgroupFrame): Promise<void> {
    const cgroup = { id: frame.cgroupId, path: frame.path };
    const runc = containerMadeBy(frame.creatorPid);
    if (!runc || !this.#isOwn(runc, frame.path)) {
      await this.#letGo(cgroup, frame.isHeld);
      return;
    }
    await this.#appear(runc, cgroup, { isHeld: frame.isHeld, isPartlySeen: !frame.isHeld });
  }

  #isOwn(runc: RuncContainer, path: string): boolean {
    try {
      return isOwnControlGroup(path, runc.id, readBundle(runc.bundle).cgroupsPath);
    } catch {
      return false;
    }
  }

  async #letGo(cgroup: ControlGroup, isHeld: boolean): Promise<void> {
    this.#pending.delete(cgroup.id);
    await this.#sensor?.unbind(cgroup).catch(() => {});
    if (isHeld) await this.#sensor?.thaw(cgroup.id).catch(() => {});
  }

  async #appear(
    runc: RuncContainer,
    cgroup: ControlGroup,
    { isHeld, isPartlySeen }: { isHeld: boolean; isPartlySeen: boolean },
  ): Promise<void> {
    const { nodeId, cache, holdMs, logger, onAppear } = this.#options;
    this.#roots.add(runc.root);
    const pending: Pending = { frames: [], isEnded: false };
    this.#pending.set(cgroup.id, pending);
    try {
      const signal = AbortSignal.timeout(isHeld ? Math.max(holdMs, 1) * 10 : IDENTIFY_MS);
      const context = { nodeId, cgroupPath: cgroup.path, isPartlySeen, cache, signal };
      const identified = await identifyContainer(runc, context);
      const flags = this.#flagsOf(identified.bundle);
      const container = new WatchedContainer(identified, cgroup, flags);
      this.#containers.set(cgroup.id, container);
      this.#noteSharedNamespace(container);
      await onAppear(container, signal);
      this.#pending.delete(cgroup.id);
      for (const frame of pending.frames) this.#options.onExec(container, frame);
      if (pending.isEnded) this.#end(container);
    } catch (err) {
      logger.warn({ err, container: runc.id }, "container not watched: it could not be identified");
      this.#containers.delete(cgroup.id);
      await this.#letGo(cgroup, false);
    } finally {
      if (isHeld) await this.#sensor?.thaw(cgroup.id).catch(() => {});
    }
  }

  #flagsOf(bundle: WatchedContainer["identified"]["bundle"]): number {
    const own = bundle.ownsPidNamespace ? CgroupFlag.OWN_PIDNS : 0;
    return own | (bundle.hasMountNamespace ? 0 : CgroupFlag.HOST_MOUNTS);
  }

  /** A pid namespace that a second container joins no longer belongs to the first alone: its pid 1 is both's. */
  #noteSharedNamespace(joiner: WatchedContainer): void {
    const path = joiner.identified.bundle.joinedPidNamespace;
    const joined = path === undefined ? undefined : pidNamespaceAt(path);
    if (joined === undefined) return;
    for (const container of this.all()) {
      const initPid = listRuncContainers([container.identified.runc.root]).find((c) => c.id === container.id)?.initPid;
      const isShared =
        container !== joiner && initPid !== undefined && pidNamespaceAt(`/proc/${initPid}/ns/pid`) === joined;
      if (isShared) container.dropFlag(CgroupFlag.OWN_PIDNS);
    }
  }

  #end(container: WatchedContainer): void {
    if (container.isGone) return;
    container.isGone = true;
    this.#containers.delete(container.cgroup.id);
    this.#options.onGone(container);
  }
}
