import { uptime } from "node:os";
import { create } from "@bufbuild/protobuf";
import { DEFAULT_DETECTORS } from "#core/detect/settings.ts";
import type { Intel } from "#core/intel/intel-set.ts";
import { AddressClasses } from "#core/matching/address-class.ts";
import { UNIT_SECONDS } from "#core/model/completeness.ts";
import { SECTIONS } from "#core/policy/container-policy.ts";
import { loadExpressionLanguage } from "#core/policy/custom-rules.ts";
import { isNamed, namedPatterns } from "#core/policy/file-policy.ts";
import { DEFAULT_TREATMENT } from "#core/policy/treatment.ts";
import type { Verdict } from "#gen/gabion/audit/v1/verdict_pb.ts";
import { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { EnforcedSchema } from "#gen/gabion/fleet/v1/fleet_pb.ts";
import type { ModelPolicy } from "#gen/gabion/model/v1/model_pb.ts";
import type { Ruleset } from "#gen/gabion/rule/v1/rule_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import type { AgentOptions } from "./agent-options.ts";
import { ContainerWatch } from "./containers/container-watch.ts";
import { scanRunning } from "./containers/running-scan.ts";
import { groupExists, type WatchedContainer } from "./containers/watched-container.ts";
import { HashCache } from "./content/hash-cache.ts";
import { imageFiles } from "./content/manifest.ts";
import { Enforcer } from "./enforce/enforcer.ts";
import { NameWatch } from "./enforce/name-watch.ts";
import { type StopResult, stopContainer } from "./enforce/stop.ts";
import { carryOutVerdict, verdictAudit } from "./enforce/verdict.ts";
import { AuditWriter } from "./pipeline/audit-writer.ts";
import { Conclusion } from "./pipeline/conclude.ts";
import { EventPipeline, sectionOfFrame } from "./pipeline/event-pipeline.ts";
import { ExecPipeline } from "./pipeline/exec-pipeline.ts";
import { Journal } from "./pipeline/journal.ts";
import { openWritten } from "./pipeline/judge-written.ts";
import { KernelHits } from "./pipeline/kernel-hits.ts";
import { Learner } from "./pipeline/learner.ts";
import { flushSpans, learnsSyscalls, noteLosses } from "./pipeline/observing.ts";
import { ProcessTable } from "./pipeline/process-table.ts";
import {
  flooding,
  holdExpired,
  leftControlGroup,
  modelFull,
  notInForce,
  readInPart,
  scannedInPart,
  sensorLost,
  unprotected,
  unwatched,
} from "./pipeline/system-audits.ts";
import { SensorSupervisor } from "./sensor-supervisor.ts";
import type {
  CgroupFrame,
  ContainerFrame,
  HelloFrame,
  HitsFrame,
  SensorFrame,
  StatsFrame,
  WrittenFrame,
} from "./wire/frames.ts";
import { CgroupFlag } from "./wire/layout.ts";
import type { Sensor } from "./wire/sensor.ts";

const SCAN_MS = 30_000;
const MODEL_WAIT_MIN_MS = 500;
/** A sensor that stands still is found to be gone so much later at most. */
const DOWN_MARGIN_S = 2.5;

/** When whoever is told of began: an exec's process, or who has a socket. */
function startOf(frame: ContainerFrame): bigint {
  if (frame.kind === "exec") return frame.startNs;
  return "actor" in frame ? frame.actor.startNs : 0n;
}

/** What a frame of the sensor is worth where nobody waits for it. */
type Unsolicited = Exclude<SensorFrame, { kind: "ack" | "hello" }>;

/** The node's part of Gabion: containers, their policies in the kernel, and what comes of their events. */
export class Agent implements AsyncDisposable {
  readonly audits: AuditWriter;
  readonly containers: ContainerWatch;
  readonly #options: AgentOptions;
  readonly #addressClasses: AddressClasses;
  readonly #cache = new HashCache();
  readonly #enforcer: Enforcer;
  readonly #learner: Learner;
  readonly #journal: Journal;
  readonly #kernelHits: KernelHits;
  /** Containers that have ended and whose last events and counters are still to come. */
  readonly #leaving = new Map<bigint, WatchedContainer>();
  readonly #ends = new Map<WatchedContainer, Promise<void>>();
  readonly #processes: ProcessTable;
  readonly #execs: ExecPipeline;
  readonly #events: EventPipeline;
  readonly #names: NameWatch;
  readonly #supervisor: SensorSupervisor;
  readonly #timers: Disposable[] = [];
  /** Sections of models that were told to be full, while their containers run. */
  readonly #full = new Set<string>();
  #hello: HelloFrame | undefined;
  #stats: StatsFrame | undefined;
  #isReportDue = false;
  #downSinceNs = 0n;
  readonly #bootOffsetMs: number;

  constructor(options: AgentOptions) {
    this.#options = options;
    this.#addressClasses = new AddressClasses(options.internalRanges);
    const { nodeId, runId, clock, logger, bootId } = options;
    this.#bootOffsetMs = clock.now() - uptime() * 1_000;
    this.audits = new AuditWriter({ nodeId, runId, clock, send: options.sendAudit });
    this.#enforcer = new Enforcer({
      nodeId,
      settings: options.treatment ?? DEFAULT_TREATMENT,
      internalRanges: options.internalRanges,
      cgroupMount: options.cgroupMount,
      logger,
      onUnprotected: (container, reason) => this.audits.writeSystem(unprotected(container, reason)),
    });
    this.#learner = new Learner(clock, options.sendObservation);
    this.#journal = new Journal(clock, (value) => options.sendObservation({ kind: "journal", value }));
    this.#kernelHits = new KernelHits({
      learner: this.#learner,
      journal: this.#journal,
      onDecision: options.onDecision,
    });
    this.#processes = new ProcessTable(bootId);
    const wallClock = { toMs: (ktimeNs: bigint) => this.#bootOffsetMs + Number(ktimeNs / 1_000_000n) };
    const conclusion = new Conclusion({
      learner: this.#learner,
      audits: this.audits,
      journal: this.#journal,
      onDecision: options.onDecision,
      intelVersion: () => this.#enforcer.intelVersion,
      stop: (container) => this.stop(container),
    });
    const cache = this.#cache;
    const { cgroupMount } = options;
    const own = { bootId, cache, processes: this.#processes, slots: this.#enforcer.slots };
    const common = { ...own, cgroupMount, conclusion, wallClock };
    this.#execs = new ExecPipeline({
      ...common,
      putFile: (container, file) => void this.#withSensor((sensor) => sensor.putFiles([file]), container.id),
    });
    const { detectors = DEFAULT_DETECTORS } = options;
    this.#events = new EventPipeline({ ...common, clock, detectors, addressClasses: this.#addressClasses });
    this.#names = new NameWatch({
      clock,
      cgroupMount,
      onName: (container, path, atMs) =>
        container.events.add(
          () => this.#events.handleName(container, path, atMs),
          (err) => logger.error({ err, path }, "name not looked into"),
        ),
    });
    this.containers = new ContainerWatch({
      nodeId,
      cluster: options.cluster ?? "",
      scope: options.scope,
      cgroupMount: options.cgroupMount,
      runcRoots: options.runcRoots,
      cache: this.#cache,
      holdMs: options.holdMs,
      logger,
      onAppear: (container, signal) => this.#appear(container, signal),
      onEvent: (container, frame) => this.#takeEvent(container, frame),
      onLost: (container, kind, count) => {
        container.span(sectionOfFrame(kind)).lost += count;
      },
      onGone: (container) => this.#gone(container),
      onUnwatched: (containerId, reason) => this.audits.writeSystem(unwatched(containerId, reason)),
    });
    this.#supervisor = new SensorSupervisor({
      sensor: {
        binary: options.sensorBinary,
        scope: options.scope,
        mount: options.cgroupMount,
        holdMs: options.holdMs,
        holdsAll: options.holdsAll,
        isMeasuring: options.isMeasuring,
        onFrame: (frame) => this.#take(frame),
      },
      logger,
      onUp: (sensor, hello, isFirst) => this.#sensorUp(sensor, hello, isFirst),
      onDown: (reason) => this.#sensorDown(reason),
    });
  }

  /** Hello of the running sensor; undefined without one. */
  get sensorHello(): HelloFrame | undefined {
    return this.#supervisor.sensor ? this.#hello : undefined;
  }

  get sensorPid(): number | undefined {
    return this.#supervisor.sensor?.pid;
  }

  /** Counters of the sensor as last reported. */
  get stats(): StatsFrame | undefined {
    return this.#stats;
  }

  /** Sections that a container's rule has in use. */
  sectionsOf(container: Container): Section[] {
    return this.#enforcer.sectionsOf(container);
  }

  /** Starts sensing. Fails with the reason where no sensor can run here. */
  async start(): Promise<void> {
    await this.#supervisor.start();
    await this.containers.scan();
    const { clock, spanMs } = this.#options;
    this.#timers.push(
      clock.every(spanMs, () => this.#flushSpans()),
      clock.every(SCAN_MS, () => this.#scan()),
      clock.every(UNIT_SECONDS * 1_000, () => this.#renewSyscalls()),
    );
  }

  /** Brings a rule set into force for every container. */
  async applyRuleset(ruleset: Ruleset): Promise<void> {
    if (ruleset.rules.some(({ customRules }) => customRules.length > 0)) await loadExpressionLanguage();
    this.#enforcer.takeRuleset(ruleset);
    await this.#enforceAll(this.containers.all());
  }

  /** Brings a model into force for the containers that run it. */
  async applyModel(model: ModelPolicy): Promise<void> {
    this.#learner.takeModel(model);
    const users = this.containers.all().filter((container) => container.message.modelKey === model.modelKey);
    this.#tellFull(model, users[0]);
    for (const container of users) container.model = model;
    await this.#enforceAll(users);
  }

  /** A section that takes in nothing more is told once: from then on new behaviour is audited, and not learned. */
  #tellFull({ modelKey, sections }: ModelPolicy, container: WatchedContainer | undefined): void {
    for (const { section, isFull } of sections) {
      const key = `${modelKey} ${section}`;
      if (!isFull || !container || this.#full.has(key)) continue;
      this.#full.add(key);
      this.audits.writeSystem(modelFull(container, modelKey, section));
    }
  }

  /** Brings intelligence into force: what is known to be bad. */
  async applyIntel(intel: Intel): Promise<void> {
    this.#enforcer.takeIntel(intel);
    await this.#enforceAll(this.containers.all());
  }

  /** Carries out an order of the control plane; the result returns as an audit. */
  async carryOut(verdict: Verdict): Promise<void> {
    const container = this.containers.byId(verdict.containerId);
    const result = await carryOutVerdict(verdict, container, (target) => this.stop(target));
    this.audits.writeSystem(verdictAudit(verdict, result, container));
  }

  /** Stops a container. A second order shares the result of the first; one that failed is tried again. */
  stop(container: WatchedContainer): Promise<StopResult> {
    container.stopping ??= stopContainer(this.#supervisor.sensor, this.#options.runcBinary, container).then(
      (result) => {
        if (!result.isStopped) container.stopping = undefined;
        return result;
      },
    );
    return container.stopping;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const timer of this.#timers) timer[Symbol.dispose]();
    this.#names[Symbol.dispose]();
    // As it ends the sensor tells what is left, and its last counters.
    await this.#supervisor[Symbol.asyncDispose]();
    await Promise.all(this.#ends.values());
    for (const container of this.containers.all()) {
      await container.idle();
      flushSpans(container, this.#learner, this.#options.clock.now());
      this.#kernelHits.flush(container, true);
      this.#journal.flush(container);
    }
    this.audits.flush();
    this.audits[Symbol.dispose]();
  }

  #take(frame: Unsolicited): void {
    switch (frame.kind) {
      case "exit":
        // In the container's turn: its exec may still be waiting.
        this.#containerOf(frame.cgroupId)?.events.add(
          async () => this.#processes.remove(frame.pid),
          () => {},
        );
        break;
      case "stats":
        this.#takeStats(frame);
        break;
      case "hits":
        this.#takeHits(frame);
        break;
      case "hold_expired":
        this.audits.writeSystem(holdExpired(this.#containerOf(frame.cgroupId), this.#options.holdMs));
        break;
      case "cgroup_new":
      case "cgroup_empty":
      case "cgroup_gone":
        this.containers.takeGroup(frame);
        break;
      case "cgroup_left":
        this.#takeLeft(frame);
        break;
      default:
        this.#options.onFrame?.(frame);
        this.#takeContainerFrame(frame);
    }
  }

  /** A container that has ended is still told of until it is unbound: what it did last comes behind its end. */
  #containerOf(cgroupId: bigint): WatchedContainer | undefined {
    return this.containers.byGroup(cgroupId) ?? this.#leaving.get(cgroupId);
  }

  #takeContainerFrame(frame: ContainerFrame): void {
    const left = this.#leaving.get(frame.cgroupId);
    if (left) this.#takeEvent(left, frame);
    else this.containers.takeEvent(frame);
  }

  #takeEvent(container: WatchedContainer, frame: ContainerFrame): void {
    if (frame.kind === "written") {
      this.#takeWritten(container, frame);
      return;
    }
    const isTaken = container.events.add(
      () => (frame.kind === "exec" ? this.#execs.handle(container, frame) : this.#events.handle(container, frame)),
      (err) => this.#options.logger.error({ err, kind: frame.kind }, "event not handled"),
    );
    if (!isTaken) container.span(sectionOfFrame(frame.kind)).lost += 1n;
  }

  /** Opened at once, because the sensor keeps it open for a while only; read in turn. What cannot be read is lost. */
  #takeWritten(container: WatchedContainer, frame: WrittenFrame): void {
    const lose = () => {
      container.span(Section.FILESYSTEM).lost += 1n;
    };
    const opening = openWritten(frame, this.sensorPid ?? 0).catch(() => undefined);
    const isTaken = container.contentTurns.add(
      async () => {
        await using file = await opening;
        if (!file || !(await this.#events.handleWritten(container, frame, file))) lose();
      },
      (err) => this.#options.logger.error({ err }, "written file not looked into"),
    );
    if (isTaken) return;
    lose();
    void opening.then((file) => file?.close());
  }

  #takeStats(frame: StatsFrame): void {
    this.#stats = frame;
    for (const { container, throttled } of noteLosses(frame, (id) => this.#containerOf(id))) {
      this.audits.writeSystem(flooding(container, throttled));
    }
  }

  #takeHits({ cgroupId, slot, rows }: HitsFrame): void {
    const container = this.#containerOf(cgroupId);
    const use = this.#enforcer.slots.of(slot);
    if (container && use) this.#kernelHits.take(container, use, rows);
  }

  #takeLeft({ cgroupId, creatorPid, path }: CgroupFrame): void {
    const container = this.#containerOf(cgroupId);
    if (container) this.audits.writeSystem(leftControlGroup(container, creatorPid, path));
  }

  async #appear(container: WatchedContainer, signal: AbortSignal): Promise<void> {
    // The control plane may take most of the time that a container may be held, not all: then the last known model does.
    const patience = AbortSignal.timeout(Math.max(MODEL_WAIT_MIN_MS, this.#options.holdMs * 0.7));
    container.model = await this.#options.modelFor(container.message, AbortSignal.any([signal, patience]));
    await this.#withSensor((sensor) => sensor.putFiles(imageFiles(container.identified.manifest)), container.id);
    if (!container.identified.manifest.isComplete) this.audits.writeSystem(readInPart(container));
    await this.#bringIntoForce(container);
    // Other containers of this model get what was fetched for this one: they will not be told of it again.
    if (container.model) await this.applyModel(container.model);
    this.#learner.presence(container, true);
    if (container.message.partlySeen) await this.#scanRunning(container, 0n);
    this.#options.logger.info({ container: container.id, model: container.message.modelKey }, "container watched");
  }

  /** What runs in a container already, and began after a moment, is judged as if it began now. */
  async #scanRunning(container: WatchedContainer, sinceNs: bigint): Promise<void> {
    const { cgroup, use } = container;
    if (!use) return;
    const running = await scanRunning(this.#options.cgroupMount, cgroup, use.slot, this.#addressClasses);
    if (!running.isComplete) this.audits.writeSystem(scannedInPart(container));
    for (const frame of running.frames) if (startOf(frame) >= sinceNs) this.#takeEvent(container, frame);
  }

  /** A container without its policy is not observed, and that is told. It is tried again with every scan. */
  async #bringIntoForce(container: WatchedContainer): Promise<void> {
    const isInForce = await this.#enforcer.enforce(container);
    if (isInForce) {
      this.#watchNames(container);
      for (const section of SECTIONS) container.span(section).beginMs ||= this.#options.clock.now();
      return;
    }
    container.endSpans();
    if (this.#hasEnded(container)) return;
    this.audits.writeSystem(notInForce(container));
  }

  /** After all its events. Not in their queue, which may be full. */
  #gone(container: WatchedContainer): void {
    this.#names.drop(container);
    const end = async () => {
      const { modelKey } = container.message;
      // It is told of until it is unbound: its last events and counters come before the answer.
      this.#leaving.set(container.cgroup.id, container);
      await this.#withSensor((sensor) => sensor.unbind(container.cgroup), container.id);
      this.#leaving.delete(container.cgroup.id);
      await container.idle();
      this.#kernelHits.flush(container, true);
      this.#flush(container);
      const isLast = !this.containers.all().some((other) => other.message.modelKey === modelKey);
      this.#learner.forget(container, isLast);
      if (isLast) for (const section of SECTIONS) this.#full.delete(`${modelKey} ${section}`);
      this.#learner.presence(container, false);
      await this.#dropFiles(container);
      this.#enforcer.release(container);
    };
    const ending = end()
      .catch((err: unknown) => this.#options.logger.error({ err }, "container not closed"))
      .finally(() => this.#ends.delete(container));
    this.#ends.set(container, ending);
  }

  /** Files of the image that another container of the same root file system still needs stay known. */
  async #dropFiles(container: WatchedContainer): Promise<void> {
    const { rootfs } = container.identified.bundle;
    const isShared = this.containers.all().some((other) => other.identified.bundle.rootfs === rootfs);
    const ofImage = isShared ? [] : imageFiles(container.identified.manifest);
    await this.#withSensor((sensor) => sensor.dropFiles([...ofImage, ...container.files.values()]), container.id);
  }

  #watchNames(container: WatchedContainer): void {
    const policy = container.use?.policy.filesystem;
    if (container.isGone || !policy) return;
    this.#names.update(container, { patterns: namedPatterns(policy), isNamed: (path) => isNamed(policy, path) });
  }

  #hasEnded(container: WatchedContainer): boolean {
    return container.isGone || !groupExists(this.#options.cgroupMount, container.cgroup);
  }

  /** What is not in force is not reported as such; the next scan tries again, and reports. */
  async #enforceAll(containers: readonly WatchedContainer[]): Promise<void> {
    const results = await Promise.all(
      containers.map(async (container) => (await this.#enforcer.enforce(container)) || this.#hasEnded(container)),
    );
    for (const container of containers) this.#watchNames(container);
    this.#isReportDue = !results.every(Boolean);
    if (!this.#isReportDue) this.#reportEnforced();
  }

  #reportEnforced(): void {
    const models = this.containers
      .all()
      .flatMap(({ use }) => (use ? [[use.modelKey, use.modelRevision] as const] : []));
    const value = create(EnforcedSchema, {
      rulesetRevision: this.#enforcer.rulesetRevision,
      modelRevisions: Object.fromEntries(models),
    });
    this.#options.sendObservation({ kind: "enforced", value });
  }

  async #sensorUp(sensor: Sensor, hello: HelloFrame, isFirst: boolean): Promise<void> {
    this.#hello = hello;
    this.#enforcer.attach(sensor, hello.groups);
    this.containers.attach(sensor);
    if (isFirst) return;
    for (const container of this.containers.all()) {
      this.#enforcer.release(container);
      container.endSpans();
      container.addFlag(CgroupFlag.RUNNING);
      container.protection = "none";
      container.isContentWatched = false;
      const ofImage = imageFiles(container.identified.manifest);
      await sensor.putFiles([...ofImage, ...container.files.values()]);
      await this.#bringIntoForce(container);
      // Who began while no sensor was there, with the sockets of those, is found now.
      await this.#scanRunning(container, this.#downSinceNs);
    }
    await this.containers.scan();
    const message = "the sensor runs again; policies are in force in the kernel";
    this.audits.writeSystem({ name: "sensor_restarted", message });
  }

  /** Time without a sensor is not observed: spans end here and begin anew when the next one is up. */
  #sensorDown(reason: string): void {
    this.#downSinceNs = BigInt(Math.floor((uptime() - DOWN_MARGIN_S) * 1e9));
    this.containers.attach(undefined);
    this.#enforcer.attach(undefined);
    for (const container of this.containers.all()) {
      this.#flush(container);
      container.endSpans();
    }
    this.audits.writeSystem(sensorLost(reason));
    this.#options.logger.error({ reason }, "the sensor ended");
  }

  #flushSpans(): void {
    for (const container of this.containers.all()) this.#flush(container);
  }

  #flush(container: WatchedContainer): void {
    flushSpans(container, this.#learner, this.#options.clock.now());
    this.#kernelHits.flush(container);
    this.#journal.flush(container);
  }

  async #renewSyscalls(): Promise<void> {
    for (const container of this.containers.all()) {
      if (learnsSyscalls(container)) await this.#enforcer.rebind(container);
    }
  }

  async #scan(): Promise<void> {
    await this.containers.scan();
    for (const container of this.containers.all()) await this.#bringIntoForce(container);
    const hasExpired = this.#enforcer.dropExpired(this.#options.clock.now());
    if (this.#isReportDue || hasExpired) await this.#enforceAll(this.containers.all());
  }

  async #withSensor(call: (sensor: Sensor) => Promise<void>, container: string): Promise<void> {
    const sensor = this.#supervisor.sensor;
    if (!sensor) return;
    await call(sensor).catch((err: unknown) =>
      this.#options.logger.warn({ err, container }, "the sensor refused an order"),
    );
  }
}
