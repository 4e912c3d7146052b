import { fromJson, type JsonValue, toJson } from "@bufbuild/protobuf";
import type { Rule, Ruleset } from "#gen/gabion/rule/v1/rule_pb.ts";
import { RulesetSchema } from "#gen/gabion/rule/v1/rule_pb.ts";
import { type RuleChange, RuleChangeSchema } from "#gen/gabion/rule/v1/rule_service_pb.ts";
import type { PublishedBody } from "#lib/bus/head-publisher.ts";
import type { Clock } from "#lib/flow/clock.ts";
import { notFound } from "#lib/rpc/errors.ts";
import { type Collection, type CollectionSpec, StaleRevisionError, type Stored } from "#lib/store/port.ts";
import { protoCodec } from "#lib/store/proto-codec.ts";
import { type Author, firstRuleset, publishedRuleset, type RulesetChange, type WholeChange } from "./ruleset.ts";

/** The rule set with the change that made it: one document, so that no set is without its history. */
interface RulesetRecord {
  readonly ruleset: Ruleset;
  readonly change: RuleChange | undefined;
}

interface RulesetJson {
  readonly ruleset: JsonValue;
  readonly change?: JsonValue;
}

export const RULESETS: CollectionSpec<RulesetRecord> = {
  name: "rulesets",
  codec: {
    encode: ({ ruleset, change }) =>
      JSON.stringify({
        ruleset: toJson(RulesetSchema, ruleset),
        ...(change ? { change: toJson(RuleChangeSchema, change) } : {}),
      } satisfies RulesetJson),
    decode: (body) => {
      const { ruleset, change } = JSON.parse(body) as RulesetJson;
      const options = { ignoreUnknownFields: true };
      return {
        ruleset: fromJson(RulesetSchema, ruleset, options),
        change: change === undefined ? undefined : fromJson(RuleChangeSchema, change, options),
      };
    },
    fields: () => ({}),
  },
  fields: {},
};
export const RULE_CHANGES: CollectionSpec<RuleChange> = {
  name: "rule_changes",
  codec: protoCodec(RuleChangeSchema, () => ({})),
  fields: {},
};

const RULESET_ID = "current";
const TRIES_MAX = 20;
/** Changes that are gone back through. */
const CHANGES_MAX = 1_000;

/** Id of a change: its revision, padded so that ids sort as numbers do. */
function changeId(revision: bigint): string {
  return String(revision).padStart(20, "0");
}

export interface RulesDependencies {
  readonly rulesets: Collection<RulesetRecord>;
  readonly changes: Collection<RuleChange>;
  readonly clock: Clock;
  readonly publish: (body: PublishedBody) => void;
}

/** The one rule set: a single document, so that order and content change together. */
export class Rules {
  readonly #deps: RulesDependencies;

  constructor(deps: RulesDependencies) {
    this.#deps = deps;
  }

  /** The set as it is, made with the default rule where there is none. */
  async current(): Promise<Ruleset> {
    return (await this.#stored()).value.ruleset;
  }

  /** Changes the set and notes the change in the history. Repeats where another editor was faster. */
  async change(author: string, make: (ruleset: Ruleset, author: Author) => RulesetChange): Promise<Rule | undefined> {
    let rule: Rule | undefined;
    await this.changeWhole(author, async (ruleset, who) => {
      const change = make(ruleset, who);
      rule = change.rule;
      return { change, steps: [] };
    });
    return rule;
  }

  /** As `change`, of the whole set; where nothing is to be done nothing is written. Answers what was done, and the revision. */
  async changeWhole(
    author: string,
    make: (ruleset: Ruleset, author: Author) => Promise<WholeChange>,
  ): Promise<WholeChange & { readonly revision: bigint }> {
    for (let attempt = 1; ; attempt += 1) {
      const stored = await this.#stored();
      await this.#noteChange(stored.value.change);
      const made = await make(stored.value.ruleset, { name: author, nowMs: this.#deps.clock.now() });
      if (!made.change) return { ...made, revision: stored.value.ruleset.revision };
      const { ruleset, change } = made.change;
      try {
        await this.#deps.rulesets.replace(RULESET_ID, { ruleset, change }, stored.revision);
      } catch (error) {
        if (!(error instanceof StaleRevisionError) || attempt >= TRIES_MAX) throw error;
        continue;
      }
      this.#deps.publish(publishedRuleset(ruleset));
      await this.#noteChange(change);
      return { ...made, revision: ruleset.revision };
    }
  }

  /** Changes after a revision, newest first. */
  async changesAfter(ruleset: Ruleset, revision: bigint): Promise<RuleChange[]> {
    if (revision > ruleset.revision) throw notFound("revision of the rules", String(revision));
    const wanted = Number(ruleset.revision - revision);
    if (wanted > CHANGES_MAX) throw notFound(`revision within the last ${CHANGES_MAX} changes`, String(revision));
    if (wanted === 0) return [];
    const where = [{ field: "id", is: "gt", value: changeId(revision) } as const];
    const found = await this.#deps.changes.find({ where, isDescending: true, limit: wanted });
    const changes = found.map(({ value }) => value).filter((each) => each.rulesetRevision <= ruleset.revision);
    if (changes.length !== wanted) throw notFound("revision in the history of the rules", String(revision));
    return changes;
  }

  /** Brings the last change into the history, if the process was ended before it could. */
  async completeHistory(): Promise<void> {
    await this.#noteChange((await this.#stored()).value.change);
  }

  async #noteChange(change: RuleChange | undefined): Promise<void> {
    if (change) await this.#deps.changes.insertMissing([{ id: changeId(change.rulesetRevision), value: change }]);
  }

  async #stored(): Promise<Stored<RulesetRecord>> {
    const found = await this.#deps.rulesets.get(RULESET_ID);
    if (found) return found;
    const ruleset = firstRuleset({ name: "service/rule", nowMs: this.#deps.clock.now() });
    await this.#deps.rulesets.insertMissing([{ id: RULESET_ID, value: { ruleset, change: undefined } }]);
    return (await this.#deps.rulesets.get(RULESET_ID)) as Stored<RulesetRecord>;
  }
}
