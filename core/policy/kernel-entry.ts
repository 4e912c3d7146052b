import type { Section } from "#gen/gabion/event/v1/event_pb.ts";
import { type Fact, LearningState } from "#gen/gabion/model/v1/model_pb.ts";
import { Effect } from "#gen/gabion/policy/v1/policy_pb.ts";
import type { Detector } from "#gen/gabion/rule/v1/rule_pb.ts";
import { isWithin } from "../matching/address.ts";
import type { CompiledDetector } from "./finding.ts";

/**
 * What the kernel does, in growing strength. `ask` leaves it to the agent and never stops anything; `prevent` refuses
 * the act or kills the process that is about to do it; `block` ends the container besides.
 */
export type KernelAction = "allow" | "ask" | "audit" | "prevent" | "block";

/** Ports and addresses are prefixes: their first `prefix` bits count. */
export type PrefixKind =
  | "listen_denied"
  | "listen_allowed"
  | "port_denied"
  | "port_allowed"
  | "port_learned"
  | "port_internal"
  | "port_lateral"
  | "address_denied"
  | "address_allowed"
  | "internal"
  | "direct"
  | "address_bad"
  | "address_excepted"
  | "resolver";

/** What an entry that lets something through stands for: an item of the model, or an entry of a rule's allowed list. */
export type EntryOrigin =
  | { readonly kind: "item"; readonly fact: Fact["kind"] }
  | {
      readonly kind: "list";
      readonly section: Section;
      /** As decisions name it. */
      readonly matched: string;
    };

/** One entry of a kernel policy slot. Texts are in escaped form. */
export type KernelEntry = { readonly action: KernelAction; readonly origin?: EntryOrigin } & (
  | { readonly kind: "item"; readonly path: string; readonly name: string }
  | {
      readonly kind: "item_content";
      readonly path: string;
      readonly name: string;
      /** `image`, or the SHA-256 of the content. */
      readonly content: string;
    }
  | {
      readonly kind:
        | "path"
        | "name"
        | "directory"
        | "domain"
        | "suffix"
        | "domain_bad"
        | "shell"
        | "file_path"
        | "file_directory";
      readonly text: string;
    }
  | { readonly kind: "domain_item"; readonly text: string; readonly recordType: number }
  | { readonly kind: "file_item"; readonly directory: string; readonly process: string }
  | {
      readonly kind: "destination_item";
      /** 16 bytes; IPv4 as ::ffff:a.b.c.d. */
      readonly address: Uint8Array;
      readonly protocol: number;
      readonly port: number;
    }
  | { readonly kind: PrefixKind; readonly bytes: Uint8Array; readonly prefix: number }
);

/** What is done where no entry names an object. */
export interface KernelDefaults {
  /** Programs of the image. */
  readonly image: KernelAction;
  /** All other programs. */
  readonly foreign: KernelAction;
  readonly listen: KernelAction;
  /** Destinations on the Internet. */
  readonly connect: KernelAction;
  /** Destinations elsewhere. */
  readonly internal: KernelAction;
  /** Internet destinations on a known port that no look-up came before. */
  readonly direct: KernelAction;
  /** Destinations that intelligence lists and that nothing before it names. */
  readonly badAddress: KernelAction;
  /** Raw and packet sockets. */
  readonly raw: KernelAction;
  /** Raw sockets for ICMP. */
  readonly rawIcmp: KernelAction;
  readonly domain: KernelAction;
  /** Names that intelligence lists and that nothing before it names. */
  readonly badDomain: KernelAction;
  /** Who is asked for names and is none of the resolvers. */
  readonly foreignResolver: KernelAction;
  readonly file: KernelAction;
  /** Files that are or become executable. */
  readonly executable: KernelAction;
  readonly syscall: KernelAction;
  readonly syscallDenied: KernelAction;
  /** Programs whose standard streams are sockets or pipes. */
  readonly stream: KernelAction;
  /** Programs that give another user's rights. */
  readonly setuid: KernelAction;
}

/** The same for everything that no entry names. */
export function defaultsOf(action: KernelAction): KernelDefaults {
  return {
    image: action,
    foreign: action,
    listen: action,
    connect: action,
    internal: action,
    direct: action,
    badAddress: action,
    raw: action,
    rawIcmp: action,
    domain: action,
    badDomain: action,
    foreignResolver: action,
    file: action,
    executable: action,
    syscall: action,
    syscallDenied: action,
    stream: action,
    setuid: action,
  };
}

/** A path whose opening fails, where the node can do that. */
export interface RefusedPath {
  readonly path: string;
  readonly isWrite: boolean;
  readonly isExec: boolean;
  /** Everything below; the path ends with a slash. */
  readonly isDirectory: boolean;
  /** May run; where such entries are, nothing else may. */
  readonly isListed: boolean;
  /** Names nothing, only has a folder watched. */
  readonly isMark: boolean;
}

export const STRENGTH: Record<KernelAction, number> = { allow: 1, ask: 2, audit: 3, prevent: 4, block: 5 };

/** A section's policy as its detectors see it. */
interface PolicyWithDetectors<Name extends string> {
  readonly state: LearningState;
  readonly section: { readonly detectors: Readonly<Record<string, Detector>> } | undefined;
  readonly detectors: Readonly<Record<Name, CompiledDetector>>;
}

/** What the kernel does for an effect. */
export function actionOf(effect: Effect): KernelAction {
  if (effect === Effect.BLOCK) return "block";
  return effect === Effect.PREVENT ? "prevent" : "audit";
}

/** What the kernel does where a detector fires: it acts only once the model is active, and where nothing is excepted. */
export function detectorAction<Name extends string>(
  { state, section, detectors }: PolicyWithDetectors<Name>,
  name: Name,
): KernelAction {
  const { effect } = detectors[name];
  if (effect === Effect.DISABLE) return "allow";
  const hasExceptions = (section?.detectors[name]?.exceptions.length ?? 0) > 0;
  return state === LearningState.ACTIVE && effect !== Effect.ALERT && !hasExceptions ? actionOf(effect) : "ask";
}

/**
 * Items of one section that the kernel passes and counts while the model still learns; all others it asks about. A model
 * that grows is loaded again with each new item, so that this bounds what a load takes.
 */
export const KERNEL_LEARNED_MAX = 1_000;

type PrefixEntry = Extract<KernelEntry, { bytes: Uint8Array }>;

function covers(outer: PrefixEntry, inner: PrefixEntry): boolean {
  const { kind, bytes, prefix } = outer;
  return kind === inner.kind && prefix <= inner.prefix && isWithin({ bytes, length: prefix }, inner.bytes);
}

/**
 * Of prefixes that cover the same object the kernel takes the longest: a weaker action for one address would hide that
 * the whole range around it is denied. Such weaker ones are left out.
 */
export function withoutHiding(entries: readonly KernelEntry[]): KernelEntry[] {
  const strong = entries.filter(
    (entry): entry is PrefixEntry => "bytes" in entry && STRENGTH[entry.action] > STRENGTH.ask,
  );
  return entries.filter(
    (entry) =>
      !("bytes" in entry) ||
      !strong.some(
        (other) => other !== entry && STRENGTH[other.action] > STRENGTH[entry.action] && covers(other, entry),
      ),
  );
}

/** Entries of a slot; of several for the same object the strongest stays. */
export class SlotBuilder {
  readonly #entries = new Map<string, KernelEntry>();

  add(entry: KernelEntry): void {
    const { action, origin: _, ...rest } = entry;
    const key = JSON.stringify(rest);
    const known = this.#entries.get(key);
    if (known === undefined || STRENGTH[action] > STRENGTH[known.action]) this.#entries.set(key, entry);
  }

  entries(): KernelEntry[] {
    return [...this.#entries.values()];
  }
}

/** One entry for each object: an allowed one must not take the place of a denied one. */
export function strongestOf(entries: readonly KernelEntry[]): KernelEntry[] {
  const builder = new SlotBuilder();
  for (const entry of entries) builder.add(entry);
  return builder.entries();
}
