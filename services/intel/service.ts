import { create } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import type { ConnectRouter } from "@connectrpc/connect";
import { candidates, guessType, normalForm } from "#core/intel/normal-form.ts";
import {
  type Indicator,
  IndicatorSchema,
  IndicatorSourceSchema,
  IndicatorType,
  Verdict,
} from "#gen/gabion/intel/v1/intel_pb.ts";
import {
  IntelService,
  ListIndicatorsResponseSchema,
  LookUpIndicatorResponseSchema,
} from "#gen/gabion/intel/v1/intel_service_pb.ts";
import type { Clock } from "#lib/flow/clock.ts";
import { invalidRequest, notFound, staleEtag } from "#lib/rpc/errors.ts";
import { readPage } from "#lib/service/page.ts";
import { type Collection, type CollectionSpec, StaleRevisionError, type Stored } from "#lib/store/port.ts";
import { protoCodec } from "#lib/store/proto-codec.ts";
import { INDICATORS_MAX, type IntelSets, publishedIntelSet } from "./intel-set.ts";

export const INDICATORS: CollectionSpec<Indicator> = {
  name: "indicators",
  codec: protoCodec(IndicatorSchema, ({ type }) => ({ type })),
  fields: { type: {} },
};

/** Feed name of what people enter here themselves. */
const OWN_FEED = "own";
const OWN_CONFIDENCE = 100;
const TRIES_MAX = 10;

export interface IntelServiceDependencies {
  readonly indicators: Collection<Indicator>;
  readonly intelSets: IntelSets;
  readonly clock: Clock;
}

function indicatorId(type: IndicatorType, value: string): string {
  return `${type}:${value}`;
}

function shown({ value, revision }: Stored<Indicator>): Indicator {
  return create(IndicatorSchema, { ...value, etag: String(revision) });
}

/** All indicators in normal form, or every fault of the request. */
function normalized(indicators: readonly Indicator[]): Indicator[] {
  const forms = indicators.map(({ type, value }) => normalForm(type, value));
  const faults = forms.flatMap((form, i) =>
    "fault" in form ? [{ field: `indicators[${i}].value`, message: form.fault }] : [],
  );
  if (faults.length > 0) throw invalidRequest(faults);
  return indicators.map((indicator, i) => ({ ...indicator, value: (forms[i] as { value: string }).value }));
}

function isInForce(indicator: Indicator, nowMs: number): boolean {
  return indicator.sources.some(
    ({ isRevoked, expireTime }) => !isRevoked && (expireTime === undefined || timestampMs(expireTime) > nowMs),
  );
}

/** An own entry beside what feeds say of the same value. */
function withOwnSource(known: Indicator | undefined, wanted: Indicator, nowMs: number): Indicator {
  const own = known?.sources.find(({ feed }) => feed === OWN_FEED);
  const given = wanted.sources[0];
  const now = timestampFromMs(nowMs);
  const source = create(IndicatorSourceSchema, {
    feed: OWN_FEED,
    confidence: given?.confidence || OWN_CONFIDENCE,
    firstSeenTime: own?.firstSeenTime ?? now,
    lastSeenTime: now,
    description: given?.description ?? "",
    ...(given?.expireTime ? { expireTime: given.expireTime } : {}),
  });
  const others = (known?.sources ?? []).filter(({ feed }) => feed !== OWN_FEED);
  return create(IndicatorSchema, {
    type: wanted.type,
    value: wanted.value,
    verdict: wanted.verdict,
    sources: [source, ...others],
  });
}

async function put({ indicators, clock }: IntelServiceDependencies, wanted: Indicator): Promise<Indicator> {
  const id = indicatorId(wanted.type, wanted.value);
  for (let attempt = 1; ; attempt += 1) {
    const known = await indicators.get(id);
    const next = withOwnSource(known?.value, wanted, clock.now());
    try {
      return shown(known ? await indicators.replace(id, next, known.revision) : await indicators.insert(id, next));
    } catch (error) {
      if (attempt >= TRIES_MAX) throw error;
    }
  }
}

/** Refuses the whole request where one entry is not as its author has read it. */
async function checkEtags({ indicators }: IntelServiceDependencies, wanted: readonly Indicator[]): Promise<void> {
  for (const { type, value, etag } of wanted.filter((indicator) => indicator.etag !== "")) {
    const known = await indicators.get(indicatorId(type, value));
    if (String(known?.revision) !== etag) throw staleEtag(`indicator \`${value}\``);
  }
}

/** Agents hold a bounded number of indicators: more is refused, and not quietly left out. */
async function checkRoom({ indicators }: IntelServiceDependencies, wanted: readonly Indicator[]): Promise<void> {
  const known = await Promise.all(wanted.map(({ type, value }) => indicators.get(indicatorId(type, value))));
  const added = known.filter((stored) => stored === undefined).length;
  if (added === 0) return;
  const count = await indicators.count();
  if (count + added <= INDICATORS_MAX) return;
  const message = `${count} indicators are listed and ${added} would be added: agents hold ${INDICATORS_MAX} at most`;
  throw invalidRequest([{ field: "indicators", message }]);
}

/** Everything listed that an object falls under, most exact first. */
async function matches(deps: IntelServiceDependencies, type: IndicatorType, value: string): Promise<Indicator[]> {
  const found = await Promise.all(candidates(type, value).map((v) => deps.indicators.get(indicatorId(type, v))));
  return found.flatMap((stored) => (stored && isInForce(stored.value, deps.clock.now()) ? [shown(stored)] : []));
}

function reasonOf(object: string, found: readonly Indicator[]): { isBad: boolean; reason: string } {
  const exception = found.find(({ verdict }) => verdict === Verdict.EXCEPTION);
  const bad = found.find(({ verdict }) => verdict === Verdict.BAD);
  if (exception) return { isBad: false, reason: `\`${object}\` is excepted by \`${exception.value}\`` };
  if (!bad) return { isBad: false, reason: `nothing is known of \`${object}\`` };
  const feeds = bad.sources.map(({ feed }) => feed).join(", ");
  return { isBad: true, reason: `\`${object}\` is listed as \`${bad.value}\` by ${feeds}` };
}

/** Handlers of intel-service. */
export function registerIntelService(router: ConnectRouter, deps: IntelServiceDependencies): void {
  const { indicators, intelSets } = deps;
  router.service(IntelService, {
    async putIndicators({ indicators: wanted, validateOnly }) {
      const normal = normalized(wanted);
      await checkEtags(deps, normal);
      await checkRoom(deps, normal);
      if (validateOnly) return { indicators: normal };
      const saved: Indicator[] = [];
      for (const indicator of normal) saved.push(await put(deps, indicator));
      await intelSets.refresh();
      return { indicators: saved };
    },
    async deleteIndicator({ type, value, etag }) {
      const form = normalForm(type, value);
      if ("fault" in form) throw invalidRequest([{ field: "value", message: form.fault }]);
      try {
        const revision = etag === "" ? undefined : Number(etag);
        if (!(await indicators.delete(indicatorId(type, form.value), revision)))
          throw notFound("indicator", form.value);
      } catch (error) {
        if (error instanceof StaleRevisionError) throw staleEtag(`indicator \`${form.value}\``);
        throw error;
      }
      await intelSets.refresh();
      return {};
    },
    async listIndicators({ type, pageSize, pageToken }) {
      const where = type === IndicatorType.UNSPECIFIED ? [] : [{ field: "type", is: "eq" as const, value: type }];
      const { documents, nextPageToken } = await readPage(indicators, { pageSize, pageToken }, { where });
      return create(ListIndicatorsResponseSchema, { indicators: documents.map(shown), nextPageToken });
    },
    async getIntelSet({ knownRevision }) {
      const set = await intelSets.current();
      return { intelSet: set.revision === knownRevision ? new Uint8Array() : publishedIntelSet(set).body };
    },
    async lookUpIndicator({ object }) {
      const type = guessType(object);
      const form = normalForm(type, object);
      if ("fault" in form) throw invalidRequest([{ field: "object", message: form.fault }]);
      const found = await matches(deps, type, form.value);
      return create(LookUpIndicatorResponseSchema, { ...reasonOf(object, found), matches: found });
    },
  });
}
