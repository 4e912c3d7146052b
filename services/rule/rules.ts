import type { Rule, Ruleset } from "#gen/gabion/rule/v1/rule_pb.ts";
import { RulesetSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { type RuleChange, RuleChangeSchema } from "#gen/gabion/rule/v1/rule_service_pb.ts";
import type { PublishedBody } from "#lib/bus/head-publisher.ts";
import type { Clock } from "#lib/flow/clock.ts";
import { type Collection, type CollectionSpec, StaleRevisionError, type Stored } from "#lib/store/port.ts";
import { protoCodec } from "#lib/store/proto-codec.ts";
import { type Author, firstRuleset, publishedRuleset, type RulesetChange } from "./ruleset.ts";

export const RULESETS: CollectionSpec<Ruleset> = {
  name: "rulesets",
  codec: protoCodec(RulesetSchema, () => ({})),
  fields: {},
};
export const RULE_CHANGES: CollectionSpec<RuleChange> = {
  name: "rule_changes",
  codec: protoCodec(RuleChangeSchema, () => ({})),
  fields: {},
};

const RULESET_ID = "current";
const TRIES_MAX = 20;

/** Id of a change: its revision, padded so that ids sort as numbers do. */
function changeId(revision: bigint): string {
  return String(revision).padStart(20, "0");
}

export interface RulesDependencies {
  readonly rulesets: Collection<Ruleset>;
  readonly changes: Collection<RuleChange>;
  readonly clock: Clock;
  readonly publish: (body: PublishedBody) => Promise<void>;
}

/** The one rule set: a single document, so that order and content change together. */
export class Rules {
  readonly #deps: RulesDependencies;

  constructor(deps: RulesDependencies) {
    this.#deps = deps;
  }

  /** The set as it is, made with the default rule where there is none. */
  async current(): Promise<Stored<Ruleset>> {
    const found = await this.#deps.rulesets.get(RULESET_ID);
    if (found) return found;
    const first = firstRuleset({ name: "service/rule", nowMs: this.#deps.clock.now() });
    await this.#deps.rulesets.insertMissing([{ id: RULESET_ID, value: first }]);
    return (await this.#deps.rulesets.get(RULESET_ID)) as Stored<Ruleset>;
  }

  /** Changes the set and notes the change in the history. Repeats where another editor was faster. */
  async change(author: string, make: (ruleset: Ruleset, author: Author) => RulesetChange): Promise<Rule | undefined> {
    for (let attempt = 1; ; attempt += 1) {
      const stored = await this.current();
      const made = make(stored.value, { name: author, nowMs: this.#deps.clock.now() });
      try {
        await this.#deps.rulesets.replace(RULESET_ID, made.ruleset, stored.revision);
        await this.#deps.changes.insertMissing([{ id: changeId(made.change.rulesetRevision), value: made.change }]);
        await this.#deps.publish(publishedRuleset(made.ruleset));
        return made.rule;
      } catch (error) {
        if (!(error instanceof StaleRevisionError) || attempt >= TRIES_MAX) throw error;
      }
    }
  }
}
