import { readFileSync, statSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { kubernetesPod } from "#core/workload/kubernetes.ts";
import type { Logger } from "#lib/telemetry/log.ts";
import type { HashCache } from "../content/hash-cache.ts";
import type { CgroupFrame, ContainerFrame } from "../wire/frames.ts";
import { CgroupFlag } from "../wire/layout.ts";
import type { Sensor } from "../wire/sensor.ts";
import { GivenResolvers } from "./given-resolvers.ts";
import { identifyContainer } from "./identify.ts";
import { isOwnControlGroup, readBundle } from "./oci-bundle.ts";
import { containerMadeBy, controlGroupOf, listRuncContainers, pidNamespaceAt, type RuncContainer } from "./runc.ts";
import { type ControlGroup, WatchedContainer } from "./watched-container.ts";

export interface ContainerWatchOptions {
  readonly nodeId: string;
  readonly cluster: string;
  /** Watched part of the control group tree. */
  readonly scope: string;
  readonly cgroupMount: string;
  readonly runcRoots: readonly string[];
  readonly cache: HashCache;
  readonly holdMs: number;
  readonly logger: Logger;
  /** A container is known: bring its policy into force. It is held until this is done, within the bound. */
  readonly onAppear: (container: WatchedContainer, signal: AbortSignal) => Promise<void>;
  readonly onEvent: (container: WatchedContainer, frame: ContainerFrame) => void;
  /** Events that found no room before their container was known. */
  readonly onLost: (container: WatchedContainer, kind: ContainerFrame["kind"], count: bigint) => void;
  readonly onGone: (container: WatchedContainer) => void;
  /** A container in the watched part of the tree is not watched, and why; once for each. */
  readonly onUnwatched: (containerId: string, reason: string) => void;
}

/** Containers that are not watched and of which that was told; when full, all are forgotten. */
const UNWATCHED_MAX = 1_000;

/** Events of a control group that is not known yet. */
const PENDING_MAX = 4_000;
/** Reading a container that is not held may take longer. */
const IDENTIFY_MS = 60_000;

interface Pending {
  readonly frames: ContainerFrame[];
  /** How many of each kind found no room. */
  readonly lost: Map<ContainerFrame["kind"], bigint>;
  isEnded: boolean;
}

/** Knows which control group is which container: new ones as they are made, running ones at the start. */
export class ContainerWatch {
  readonly #options: ContainerWatchOptions;
  readonly #resolvers = new GivenResolvers();
  readonly #containers = new Map<bigint, WatchedContainer>();
  readonly #pending = new Map<bigint, Pending>();
  /** Runc roots seen in use, beside those of the settings. */
  readonly #roots: Set<string>;
  readonly #held = new Map<bigint, ControlGroup>();
  readonly #unwatched = new Set<string>();
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

  /** What a lost sensor held goes on at once: the next one does not know of it. */
  attach(sensor: Sensor | undefined): void {
    this.#sensor = sensor;
    if (!sensor) for (const cgroup of [...this.#held.values()]) void this.#thaw(cgroup);
  }

  takeEvent(frame: ContainerFrame): void {
    const container = this.#containers.get(frame.cgroupId);
    if (container?.use) {
      this.#options.onEvent(container, frame);
      return;
    }
    const pending = this.#pending.get(frame.cgroupId);
    if (pending && pending.frames.length < PENDING_MAX) pending.frames.push(frame);
    else if (container) this.#options.onLost(container, frame.kind, 1n);
    else if (pending) pending.lost.set(frame.kind, (pending.lost.get(frame.kind) ?? 0n) + 1n);
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

  /** Finds containers that run already, those whose making was missed, and those whose end was. */
  async scan(): Promise<void> {
    for (const container of this.all()) if (!this.#isPopulated(container.cgroup)) this.#end(container);
    const known = new Set(this.all().map((container) => container.cgroup.path));
    for (const runc of listRuncContainers([...this.#roots])) {
      const path = this.#groupOf(runc);
      if (path === undefined || known.has(path) || !this.#isInScope(path) || this.#isOurs(path) || isPause(runc))
        continue;
      const id = this.#idOf(path);
      if (id === undefined || this.#pending.has(id)) continue;
      await this.#appear(runc, { id, path }, { isHeld: false, isPartlySeen: true });
    }
  }

  /** The container's own group: its first process may have moved into one below. */
  #groupOf(runc: RuncContainer): string | undefined {
    const path = controlGroupOf(runc.initPid ?? 0);
    for (let at = path; at && at !== "/"; at = at.slice(0, at.lastIndexOf("/"))) if (this.#isOwn(runc, at)) return at;
    return undefined;
  }

  /** Gabion's own processes are never touched, also where they run in a container. */
  #isOurs(path: string): boolean {
    const own = controlGroupOf(process.pid);
    return own !== undefined && (own === path || own.startsWith(`${path}/`));
  }

  #isPopulated({ path, id }: ControlGroup): boolean {
    try {
      const events = readFileSync(join(this.#options.cgroupMount, path, "cgroup.events"), "utf8");
      return this.#idOf(path) === id && events.includes("populated 1");
    } catch {
      return false;
    }
  }

  #isInScope(path: string): boolean {
    return this.#options.scope === "/" ? path !== "/" : path.startsWith(`${this.#options.scope}/`);
  }

  /** Undefined where the group has gone meanwhile. */
  #idOf(path: string): bigint | undefined {
    return statSync(join(this.#options.cgroupMount, path), { bigint: true, throwIfNoEntry: false })?.ino;
  }

  async #takeNew(frame: CgroupFrame): Promise<void> {
    const cgroup = { id: frame.cgroupId, path: frame.path };
    // What is made below a group that is not known yet belongs to it, and is bound with it.
    if (this.#pending.has(frame.parentId) || this.#containers.has(frame.parentId)) return;
    const runc = containerMadeBy(frame.creatorPid);
    if (!runc || !this.#isOwn(runc, frame.path) || this.#isOurs(frame.path) || isPause(runc)) {
      await this.#letGo(cgroup, frame.isHeld);
      return;
    }
    await this.#appear(runc, cgroup, { isHeld: frame.isHeld, isPartlySeen: !frame.isHeld });
  }

  #isOwn(runc: RuncContainer, path: string): boolean {
    try {
      return isOwnControlGroup(path, runc.id, readBundle(runc.bundle).cgroupsPath);
    } catch (err) {
      if (this.#isInScope(path)) this.#tellUnwatched(runc, err);
      return false;
    }
  }

  #tellUnwatched(runc: RuncContainer, err: unknown): void {
    const key = `${runc.root} ${runc.id}`;
    if (this.#unwatched.has(key)) return;
    if (this.#unwatched.size >= UNWATCHED_MAX) this.#unwatched.clear();
    this.#unwatched.add(key);
    this.#options.logger.warn({ err, container: runc.id }, "container not watched");
    this.#options.onUnwatched(runc.id, (err as Error).message);
  }

  async #letGo(cgroup: ControlGroup, isHeld: boolean): Promise<void> {
    this.#pending.delete(cgroup.id);
    await this.#sensor?.unbind(cgroup).catch(() => {});
    if (isHeld) await this.#thaw(cgroup);
  }

  /** Lets a held group go on, with the sensor's help or without: a container must never stay frozen. */
  async #thaw(cgroup: ControlGroup): Promise<void> {
    this.#held.delete(cgroup.id);
    try {
      if (!this.#sensor) throw new Error("no sensor");
      await this.#sensor.thaw(cgroup);
    } catch {
      await writeFile(join(this.#options.cgroupMount, cgroup.path, "cgroup.freeze"), "0").catch(() => {});
    }
  }

  async #appear(
    runc: RuncContainer,
    cgroup: ControlGroup,
    { isHeld, isPartlySeen }: { isHeld: boolean; isPartlySeen: boolean },
  ): Promise<void> {
    const { nodeId, cluster, cache, holdMs, onAppear } = this.#options;
    this.#roots.add(runc.root);
    if (isHeld) this.#held.set(cgroup.id, cgroup);
    const pending: Pending = { frames: [], lost: new Map(), isEnded: false };
    this.#pending.set(cgroup.id, pending);
    try {
      const timeMs = isHeld ? Math.max(holdMs, 1) * 10 : IDENTIFY_MS;
      const context = { nodeId, cluster, cgroupPath: cgroup.path, isPartlySeen, cache, resolvers: this.#resolvers };
      const identified = await identifyContainer(runc, { ...context, signal: AbortSignal.timeout(timeMs) });
      const signal = AbortSignal.timeout(timeMs);
      const flags = this.#flagsOf(identified.bundle) | (isHeld ? 0 : CgroupFlag.RUNNING);
      const container = new WatchedContainer(identified, cgroup, flags);
      this.#containers.set(cgroup.id, container);
      await this.#noteSharedNamespaces();
      await onAppear(container, signal);
      this.#pending.delete(cgroup.id);
      for (const [kind, count] of pending.lost) this.#options.onLost(container, kind, count);
      for (const frame of pending.frames) this.#options.onEvent(container, frame);
      this.#unwatched.delete(`${runc.root} ${runc.id}`);
      if (pending.isEnded) this.#end(container);
    } catch (err) {
      this.#tellUnwatched(runc, err);
      this.#containers.delete(cgroup.id);
      await this.#letGo(cgroup, false);
    } finally {
      if (isHeld) await this.#thaw(cgroup);
    }
  }

  #flagsOf(bundle: WatchedContainer["identified"]["bundle"]): number {
    const own = bundle.ownsPidNamespace ? CgroupFlag.OWN_PIDNS : 0;
    return own | (bundle.hasMountNamespace ? 0 : CgroupFlag.HOST_MOUNTS);
  }

  /** A pid namespace of more than one container belongs to none of them alone: its pid 1 is everybody's. */
  async #noteSharedNamespaces(): Promise<void> {
    const users = new Map<string, WatchedContainer[]>();
    const roots = new Set(this.all().map(({ identified }) => identified.runc.root));
    const running = listRuncContainers([...roots]);
    for (const container of this.all()) {
      const initPid = running.find((c) => c.id === container.id && c.root === container.identified.runc.root)?.initPid;
      const { joinedPidNamespace } = container.identified.bundle;
      const path = initPid === undefined ? joinedPidNamespace : `/proc/${initPid}/ns/pid`;
      const namespace = path === undefined ? undefined : pidNamespaceAt(path);
      if (namespace !== undefined) users.set(namespace, [...(users.get(namespace) ?? []), container]);
    }
    for (const container of [...users.values()].filter((all) => all.length > 1).flat()) {
      if (!container.dropFlag(CgroupFlag.OWN_PIDNS) || !container.use) continue;
      const { flags, device } = container.binding;
      await this.#sensor
        ?.bind(container.cgroup, container.use.slot, { flags: flags | container.policyFlags, device })
        .catch((err: unknown) => this.#options.logger.warn({ err, container: container.id }, "not bound anew"));
    }
  }

  #end(container: WatchedContainer): void {
    if (container.isGone) return;
    container.isGone = true;
    this.#containers.delete(container.cgroup.id);
    this.#options.onGone(container);
  }
}

/** The container that only holds a pod's namespaces: Kubernetes' own, and nothing to watch. */
function isPause({ bundle }: RuncContainer): boolean {
  try {
    return kubernetesPod(readBundle(bundle).annotations)?.isPause === true;
  } catch {
    return false;
  }
}
