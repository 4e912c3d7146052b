import { create, equals, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import {
  type FileIndicator,
  FileIndicatorSchema,
  type FileSet,
  FileSetSchema,
  type Indicator,
  IndicatorType,
  Verdict,
} from "#gen/gabion/intel/v1/intel_pb.ts";
import type { PublishedBody } from "#lib/bus/head-publisher.ts";
import { FILE_SET_KEY } from "#lib/bus/topology.ts";
import type { Clock } from "#lib/flow/clock.ts";
import {
  AlreadyExistsError,
  type Collection,
  type CollectionSpec,
  MAX_LIMIT,
  StaleRevisionError,
} from "#lib/store/port.ts";
import { protoCodec } from "#lib/store/proto-codec.ts";

export const FILE_SETS: CollectionSpec<FileSet> = {
  name: "file_sets",
  codec: protoCodec(FileSetSchema, () => ({})),
  fields: {},
};

/** Characters of a description in the set. */
const DESCRIPTION_MAX = 64;
/** Hashes that one set holds: with their descriptions they fit into one message to an agent. */
export const FILES_MAX = 20_000;
const SET_ID = "current";
const TRIES_MAX = 20;

export interface FileSetsDependencies {
  readonly indicators: Collection<Indicator>;
  readonly sets: Collection<FileSet>;
  readonly clock: Clock;
  readonly publish: (body: PublishedBody) => void;
}

/** Serialized set as agents fetch it. */
export function publishedFileSet(set: FileSet): PublishedBody {
  return { key: FILE_SET_KEY, revision: set.revision, body: toBinary(FileSetSchema, set) };
}

function fileIndicator({ value, sources }: Indicator, nowMs: number): FileIndicator | undefined {
  const living = sources.filter(
    ({ isRevoked, expireTime }) => !isRevoked && (expireTime === undefined || timestampMs(expireTime) > nowMs),
  );
  const [source] = living;
  if (!source) return undefined;
  const ends = living.flatMap(({ expireTime }) => (expireTime ? [timestampMs(expireTime)] : []));
  // It stays bad for as long as one of them says so.
  const expireTime = ends.length === living.length ? timestampFromMs(Math.max(...ends)) : undefined;
  const description = source.description.slice(0, DESCRIPTION_MAX);
  const sha256 = Buffer.from(value, "hex");
  return create(FileIndicatorSchema, { sha256, feed: source.feed, description, ...(expireTime ? { expireTime } : {}) });
}

/** The bad files as agents are given them, kept equal to the indicators. */
export class FileSets {
  readonly #deps: FileSetsDependencies;

  constructor(deps: FileSetsDependencies) {
    this.#deps = deps;
  }

  /** The set in force; made where there is none. */
  async current(): Promise<FileSet> {
    return (await this.#deps.sets.get(SET_ID))?.value ?? this.refresh();
  }

  /** Brings the set up to what the indicators say, and publishes it where it changed. */
  async refresh(): Promise<FileSet> {
    const { sets, publish } = this.#deps;
    for (let attempt = 1; ; attempt += 1) {
      const known = await sets.get(SET_ID);
      const files = await this.#files();
      const contents = (set: readonly FileIndicator[]) => create(FileSetSchema, { files: [...set] });
      if (known && equals(FileSetSchema, contents(files), contents(known.value.files))) return known.value;
      // The first revision comes from the clock: agents would take a set that begins anew with 1 for an old one.
      const revision = (known?.value.revision ?? BigInt(this.#deps.clock.now())) + 1n;
      const next = create(FileSetSchema, { revision, files });
      try {
        await (known ? sets.replace(SET_ID, next, known.revision) : sets.insert(SET_ID, next));
        publish(publishedFileSet(next));
        return next;
      } catch (error) {
        const isRace = error instanceof StaleRevisionError || error instanceof AlreadyExistsError;
        if (!isRace || attempt >= TRIES_MAX) throw error;
      }
    }
  }

  async #files(): Promise<FileIndicator[]> {
    const { indicators, clock } = this.#deps;
    const where = [{ field: "type", is: "eq" as const, value: IndicatorType.SHA256 }];
    const found: FileIndicator[] = [];
    let after: { value: string; id: string } | undefined;
    do {
      const page = await indicators.find({ where, limit: MAX_LIMIT, ...(after ? { after } : {}) });
      const bad = page.filter(({ value }) => value.verdict === Verdict.BAD);
      found.push(...bad.flatMap(({ value }) => fileIndicator(value, clock.now()) ?? []));
      const last = page.length === MAX_LIMIT ? page.at(-1) : undefined;
      after = last && { value: last.id, id: last.id };
    } while (after && found.length < FILES_MAX);
    return found.slice(0, FILES_MAX).sort((a, b) => Buffer.compare(a.sha256, b.sha256));
  }
}
