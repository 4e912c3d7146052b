import { create, equals, toBinary } from "@bufbuild/protobuf";
import { type Timestamp, timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import {
  FileIndicatorSchema,
  type Indicator,
  IndicatorType,
  type IntelSet,
  IntelSetSchema,
  type NameIndicator,
  NameIndicatorSchema,
  Verdict,
} from "#gen/gabion/intel/v1/intel_pb.ts";
import type { PublishedBody } from "#lib/bus/head-publisher.ts";
import { INTEL_SET_KEY } from "#lib/bus/topology.ts";
import type { Clock } from "#lib/flow/clock.ts";
import {
  AlreadyExistsError,
  type Collection,
  type CollectionSpec,
  MAX_LIMIT,
  StaleRevisionError,
} from "#lib/store/port.ts";
import { protoCodec } from "#lib/store/proto-codec.ts";

export const INTEL_SETS: CollectionSpec<IntelSet> = {
  name: "intel_sets",
  codec: protoCodec(IntelSetSchema, () => ({})),
  fields: {},
};

/** Characters of a description in the set. */
const DESCRIPTION_MAX = 64;
/** Indicators that one set holds: with their descriptions they fit into one message to an agent. */
export const INDICATORS_MAX = 20_000;
const SET_ID = "current";
const TRIES_MAX = 20;

export interface IntelSetsDependencies {
  readonly indicators: Collection<Indicator>;
  readonly sets: Collection<IntelSet>;
  readonly clock: Clock;
  readonly publish: (body: PublishedBody) => void;
}

/** Serialized set as agents fetch it. */
export function publishedIntelSet(set: IntelSet): PublishedBody {
  return { key: INTEL_SET_KEY, revision: set.revision, body: toBinary(IntelSetSchema, set) };
}

interface InForce {
  readonly feed: string;
  readonly description: string;
  readonly expireTime?: Timestamp;
}

/** What its living sources say of an indicator; undefined where none is left. */
function inForce({ sources }: Indicator, nowMs: number): InForce | undefined {
  const living = sources.filter(
    ({ isRevoked, expireTime }) => !isRevoked && (expireTime === undefined || timestampMs(expireTime) > nowMs),
  );
  const [source] = living;
  if (!source) return undefined;
  const ends = living.flatMap(({ expireTime }) => (expireTime ? [timestampMs(expireTime)] : []));
  // It stays bad for as long as one of them says so.
  const expireTime = ends.length === living.length ? timestampFromMs(Math.max(...ends)) : undefined;
  const description = source.description.slice(0, DESCRIPTION_MAX);
  return { feed: source.feed, description, ...(expireTime ? { expireTime } : {}) };
}

type Content = Pick<IntelSet, "files" | "domains" | "prefixes">;

/** The content of a set: files without those that are excepted, names with their exceptions, which lie within others. */
function contentOf(indicators: readonly Indicator[], nowMs: number): Content {
  const content: Content = { files: [], domains: [], prefixes: [] };
  for (const indicator of indicators) {
    const { type, value, verdict } = indicator;
    const said = inForce(indicator, nowMs);
    if (!said) continue;
    const isException = verdict === Verdict.EXCEPTION;
    const name = () => create(NameIndicatorSchema, { ...said, value, isException });
    if (type === IndicatorType.DOMAIN) content.domains.push(name());
    else if (type === IndicatorType.PREFIX) content.prefixes.push(name());
    else if (!isException)
      content.files.push(create(FileIndicatorSchema, { ...said, sha256: Buffer.from(value, "hex") }));
  }
  const byValue = (a: NameIndicator, b: NameIndicator) => (a.value < b.value ? -1 : 1);
  content.files.sort((a, b) => Buffer.compare(a.sha256, b.sha256));
  content.domains.sort(byValue);
  content.prefixes.sort(byValue);
  return content;
}

/** What is known to be bad, as agents are given it, kept equal to the indicators. */
export class IntelSets {
  readonly #deps: IntelSetsDependencies;

  constructor(deps: IntelSetsDependencies) {
    this.#deps = deps;
  }

  /** The set in force; made where there is none. */
  async current(): Promise<IntelSet> {
    return (await this.#deps.sets.get(SET_ID))?.value ?? this.refresh();
  }

  /** Brings the set up to what the indicators say, and publishes it where it changed. */
  async refresh(): Promise<IntelSet> {
    const { sets, publish } = this.#deps;
    for (let attempt = 1; ; attempt += 1) {
      const known = await sets.get(SET_ID);
      const content = contentOf(await this.#all(), this.#deps.clock.now());
      const next = (revision: bigint) => create(IntelSetSchema, { revision, ...content });
      if (known && equals(IntelSetSchema, next(known.value.revision), known.value)) return known.value;
      // The first revision comes from the clock: agents would take a set that begins anew with 1 for an old one.
      const revision = (known?.value.revision ?? BigInt(this.#deps.clock.now())) + 1n;
      const set = next(revision);
      try {
        await (known ? sets.replace(SET_ID, set, known.revision) : sets.insert(SET_ID, set));
        publish(publishedIntelSet(set));
        return set;
      } catch (error) {
        const isRace = error instanceof StaleRevisionError || error instanceof AlreadyExistsError;
        if (!isRace || attempt >= TRIES_MAX) throw error;
      }
    }
  }

  async #all(): Promise<Indicator[]> {
    const found: Indicator[] = [];
    let after: { value: string; id: string } | undefined;
    do {
      const page = await this.#deps.indicators.find({ limit: MAX_LIMIT, ...(after ? { after } : {}) });
      found.push(...page.map(({ value }) => value));
      const last = page.length === MAX_LIMIT ? page.at(-1) : undefined;
      after = last && { value: last.id, id: last.id };
    } while (after && found.length < INDICATORS_MAX);
    return found.slice(0, INDICATORS_MAX);
  }
}
