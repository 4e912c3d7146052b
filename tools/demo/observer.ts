import type { Audit } from "#gen/gabion/audit/v1/audit_pb.ts";
import { LearningState, type Model } from "#gen/gabion/model/v1/model_pb.ts";
import type { Rule } from "#gen/gabion/rule/v1/rule_pb.ts";
import type { Connection } from "../cli/connection.ts";
import { until } from "./until.ts";

/** Sees what Gabion says through its public API, and waits for it. */
export class Observer implements AsyncDisposable {
  readonly audits: Audit[] = [];
  /** Wall-clock ms at which each audit arrived, by id. */
  readonly arrivals = new Map<string, number>();
  readonly #connection: Connection;
  readonly #abort = new AbortController();
  readonly #watching: Promise<void>;
  readonly #ready = Promise.withResolvers<void>();

  private constructor(connection: Connection) {
    this.#connection = connection;
    this.#watching = this.#watch();
  }

  /** Begins to watch audits; none that comes afterwards is missed. */
  static async open(connection: Connection): Promise<Observer> {
    const observer = new Observer(connection);
    await observer.#ready.promise;
    return observer;
  }

  /** The model of a container that runs. */
  async modelOf(containerId: string, timeoutMs = 20_000): Promise<Model> {
    const container = await until(`container ${containerId} to be known`, timeoutMs, async () => {
      const { containers } = await this.#connection.fleet.listContainers({ pageSize: 1000 });
      return containers.find((c) => c.containerId === containerId);
    });
    return this.#model(container.modelKey);
  }

  /** Waits until a model has a state, and until the node enforces it. */
  async modelInState(modelKey: string, state: LearningState, timeoutMs = 60_000): Promise<Model> {
    const model = await until(
      `model ${modelKey} to be ${LearningState[state as never] ?? state}`,
      timeoutMs,
      async () => {
        const found = await this.#model(modelKey);
        return found.state === state ? found : undefined;
      },
    );
    await until(`the node to enforce model ${modelKey}`, timeoutMs, async () => {
      const { nodes } = await this.#connection.fleet.listNodes({});
      return nodes.some((n) => (n.hello?.enforced?.modelRevisions[modelKey] ?? 0n) >= model.revision) || undefined;
    });
    return model;
  }

  /** Adds a rule and waits until the node enforces it. */
  async enforceRule(rule: Parameters<Connection["rules"]["createRule"]>[0]["rule"]): Promise<Rule> {
    const created = await this.#connection.rules.createRule(rule ? { rule } : {});
    await this.rulesInForce();
    return created.rule as Rule;
  }

  /** Waits until the node enforces the rules as they are now. */
  async rulesInForce(timeoutMs = 20_000): Promise<void> {
    const { rulesetRevision } = await this.#connection.rules.listRules({});
    await until(`the node to enforce rules ${rulesetRevision}`, timeoutMs, async () => {
      const { nodes } = await this.#connection.fleet.listNodes({});
      return nodes.some((n) => (n.hello?.enforced?.rulesetRevision ?? 0n) >= rulesetRevision) || undefined;
    });
  }

  /** The first audit since a position for which a test holds. */
  auditWhere(what: string, test: (audit: Audit) => boolean, from = 0, timeoutMs = 20_000): Promise<Audit> {
    return until(`an audit of ${what}`, timeoutMs, () => this.audits.slice(from).find(test));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort();
    await this.#watching;
  }

  async #model(modelKey: string): Promise<Model> {
    const { model } = await this.#connection.models.getModel({ modelKey });
    if (!model) throw new Error(`model ${modelKey} has no content`);
    return model;
  }

  async #watch(): Promise<void> {
    try {
      for await (const { audits } of this.#connection.audits.watchAudits({}, { signal: this.#abort.signal })) {
        this.#ready.resolve();
        for (const { auditId } of audits) this.arrivals.set(auditId, Date.now());
        this.audits.push(...audits);
      }
    } catch (error) {
      if (!this.#abort.signal.aborted) this.#ready.reject(error);
    }
  }
}
