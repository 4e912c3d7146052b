import { createHash } from "node:crypto";
import { fromBinary } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import { type BodyHead, BodyHeadSchema } from "#gen/gabion/bus/v1/envelope_pb.ts";
import type { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { type IntelSet, IntelSetSchema } from "#gen/gabion/intel/v1/intel_pb.ts";
import type { IntelService } from "#gen/gabion/intel/v1/intel_service_pb.ts";
import { type ModelPolicy, ModelPolicySchema } from "#gen/gabion/model/v1/model_pb.ts";
import type { ModelService } from "#gen/gabion/model/v1/model_service_pb.ts";
import { type Ruleset, RulesetSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import type { RuleService } from "#gen/gabion/rule/v1/rule_service_pb.ts";
import type { Container } from "#gen/gabion/workload/v1/workload_pb.ts";
import type { Bus } from "#lib/bus/connection.ts";
import { EnvelopeError, unseal } from "#lib/bus/envelope.ts";
import {
  INTEL_SET_KEY,
  modelKeyOnBus,
  modelOfBusKey,
  POLICY_SUBJECTS,
  policyKey,
  RULESET_KEY,
} from "#lib/bus/topology.ts";
import type { Clock } from "#lib/flow/clock.ts";
import { aborted, repeatUntilAborted } from "#lib/flow/retry.ts";
import type { SignatureCheck } from "#lib/pki/signing.ts";
import type { Logger } from "#lib/telemetry/log.ts";
import type { AppliedRevisions } from "./applied-revisions.ts";
import type { PolicyCache } from "./policy-cache.ts";

export interface PolicySourceOptions {
  readonly bus: Bus;
  readonly check: SignatureCheck;
  readonly models: Client<typeof ModelService>;
  readonly rules: Client<typeof RuleService>;
  readonly intel: Client<typeof IntelService>;
  readonly applied: AppliedRevisions;
  readonly cache: PolicyCache;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Sections that a container's rule has in use: the model is to have them. */
  readonly sectionsOf: (container: Container) => readonly Section[];
  /** Containers under watch. */
  readonly containers: () => readonly Container[];
  /** Revision of the model that a container has, 0 for none. */
  readonly revisionOf: (container: Container) => bigint;
  readonly onRuleset: (ruleset: Ruleset) => Promise<void>;
  readonly onModel: (model: ModelPolicy) => Promise<void>;
  /** Nobody has analysed the image of a container yet. */
  readonly onUnanalysed: (container: Container) => void;
  readonly onIntel: (set: IntelSet) => Promise<void>;
}

/** Whose word counts for a key; all others are models. */
const ISSUERS: Readonly<Record<string, string>> = { [RULESET_KEY]: "service/rule", [INTEL_SET_KEY]: "service/intel" };

/** What is applied is compared with the services this often: a message on the bus may be missed. */
const RECONCILE_MS = 30_000;

/** Brings rule set and models to the node: told by signed heads on the bus, fetched by RPC, checked by digest. */
export class PolicySource implements AsyncDisposable {
  readonly #options: PolicySourceOptions;
  readonly #abort = new AbortController();
  readonly #listening: Promise<void>;
  readonly #timer: Disposable;
  #rulesetRevision = 0n;
  #intelRevision = 0n;

  constructor(options: PolicySourceOptions) {
    this.#options = options;
    const onFailure = (err: unknown) => options.logger.debug({ err }, "policy changes cannot be heard yet");
    this.#listening = repeatUntilAborted((signal) => this.#listen(signal), { signal: this.#abort.signal, onFailure });
    this.#timer = options.clock.every(RECONCILE_MS, () => this.#reconcile());
  }

  /** The rule set last verified on this node, if there is one. */
  cachedRuleset(): Ruleset | undefined {
    const body = this.#options.cache.read(RULESET_KEY);
    return body && fromBinary(RulesetSchema, body);
  }

  /** The intelligence last verified on this node, if there is some. */
  cachedIntel(): IntelSet | undefined {
    const body = this.#options.cache.read(INTEL_SET_KEY);
    return body && fromBinary(IntelSetSchema, body);
  }

  /** Fetches intelligence now. */
  async fetchIntel(head?: BodyHead): Promise<void> {
    const { intel, cache, applied, onIntel } = this.#options;
    const { intelSet: body } = await intel.getIntelSet({ knownRevision: this.#intelRevision });
    if (body.length === 0) return;
    const set = fromBinary(IntelSetSchema, body);
    this.#checkBody(INTEL_SET_KEY, set.revision, body, head);
    if (set.revision === this.#intelRevision) return;
    this.#intelRevision = set.revision;
    cache.write(INTEL_SET_KEY, body);
    applied.apply(INTEL_SET_KEY, set.revision);
    await onIntel(set);
  }

  /** Fetches the rule set now. */
  async fetchRuleset(head?: BodyHead): Promise<void> {
    const { ruleset: body } = await this.#options.rules.getRuleset({});
    const ruleset = fromBinary(RulesetSchema, body);
    this.#checkBody(RULESET_KEY, ruleset.revision, body, head);
    if (ruleset.revision === this.#rulesetRevision) return;
    this.#rulesetRevision = ruleset.revision;
    this.#options.cache.write(RULESET_KEY, body);
    this.#options.applied.apply(RULESET_KEY, ruleset.revision);
    await this.#options.onRuleset(ruleset);
    // A section that a rule turned on learns from now on.
    await this.#fetchModels();
  }

  /** The model of a container: from model-service, else the last one verified here; undefined where there is neither. */
  async modelFor(container: Container, signal?: AbortSignal): Promise<ModelPolicy | undefined> {
    try {
      return await this.#fetchModel(container, undefined, signal);
    } catch (err) {
      this.#options.logger.warn({ err, modelKey: container.modelKey }, "model not fetched; using the last one known");
      const body = this.#options.cache.read(modelKeyOnBus(container.modelKey));
      return body && fromBinary(ModelPolicySchema, body);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#timer[Symbol.dispose]();
    this.#abort.abort(new Error("the agent is ending"));
    await this.#listening;
  }

  async #fetchModel(container: Container, head?: BodyHead, signal?: AbortSignal): Promise<ModelPolicy> {
    const { models, sectionsOf, cache, applied, onUnanalysed } = this.#options;
    const request = { container, sections: [...sectionsOf(container)] };
    const { modelPolicy: body, needsStaticAnalysis } = await models.ensureModel(request, signal ? { signal } : {});
    if (needsStaticAnalysis) onUnanalysed(container);
    const model = fromBinary(ModelPolicySchema, body);
    const key = modelKeyOnBus(container.modelKey);
    if (model.modelKey !== container.modelKey) throw new EnvelopeError(`the model is \`${model.modelKey}\``);
    this.#checkBody(key, model.revision, body, head);
    cache.write(key, body);
    applied.apply(key, model.revision);
    return model;
  }

  /** A body may be newer than the head that told of it, never older than what was applied. */
  #checkBody(key: string, revision: bigint, body: Uint8Array, head: BodyHead | undefined): void {
    const applied = this.#options.applied.of(key);
    if (revision < applied) throw new EnvelopeError(`${key} has revision ${revision}, ${applied} was applied already`);
    const digest = createHash("sha256").update(body).digest("hex");
    if (head && head.revision === revision && head.digest !== digest) {
      throw new EnvelopeError(`${key} at revision ${revision} does not have the published digest`);
    }
  }

  async #listen(signal: AbortSignal): Promise<void> {
    const connection = await this.#options.bus.connection();
    const messages = connection.subscribe(POLICY_SUBJECTS);
    void aborted(signal).then(() => messages.unsubscribe());
    for await (const message of messages) await this.#takeHead(policyKey(message.subject), message.data);
  }

  /** Asks the services themselves: for what was told while the bus was away, and for models that could not be had. */
  async #reconcile(): Promise<void> {
    const { logger } = this.#options;
    try {
      await this.fetchRuleset();
      await this.#fetchModels();
    } catch (err) {
      logger.debug({ err }, "policy not compared with the services");
    }
    await this.fetchIntel().catch((err: unknown) =>
      logger.debug({ err }, "intelligence not compared with the service"),
    );
  }

  async #fetchModels(): Promise<void> {
    const { containers, onModel, revisionOf, logger } = this.#options;
    for (const container of containers()) {
      try {
        const model = await this.#fetchModel(container);
        if (model.revision > revisionOf(container)) await onModel(model);
      } catch (err) {
        logger.debug({ err, modelKey: container.modelKey }, "model not fetched");
      }
    }
  }

  /** What cannot be verified is logged and left; the policy in force stays. */
  async #takeHead(key: string, envelope: Uint8Array): Promise<void> {
    const { check, applied, clock, logger } = this.#options;
    try {
      const issuer = ISSUERS[key] ?? "service/model";
      const appliedRevision = applied.of(key);
      const opened = unseal(envelope, BodyHeadSchema, {
        check,
        issuer,
        subject: key,
        appliedRevision,
        nowMs: clock.now(),
      });
      if (opened.message.revision <= appliedRevision) return;
      await this.#fetchFor(key, opened.message);
    } catch (err) {
      logger.warn({ err, key }, "policy message refused");
    }
  }

  async #fetchFor(key: string, head: BodyHead): Promise<void> {
    if (key === RULESET_KEY) return this.fetchRuleset(head);
    if (key === INTEL_SET_KEY) return this.fetchIntel(head);
    const modelKey = modelOfBusKey(key);
    const container = this.#options.containers().find((c) => c.modelKey === modelKey);
    if (container) await this.#options.onModel(await this.#fetchModel(container, head));
  }
}
