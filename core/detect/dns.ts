import { getDomain } from "tldts";

/** A look-up as the detectors see it. */
export interface LookUp {
  /** Lower case, without the last dot. */
  readonly name: string;
  readonly recordType: number;
  /** Length of the message in bytes. */
  readonly payloadLength: number;
}

export interface DnsDetectorSettings {
  readonly windowMs: number;
  /** Distinct names below one registrable domain, and bytes of them, within the window. */
  readonly tunnelNames: number;
  readonly tunnelBytes: number;
  /** Bytes of as many distinct names, within `slowWindowMs`: of who takes its time. */
  readonly slowBytes: number;
  readonly slowWindowMs: number;
  /** Queries, and the share of them with record types that carry data, within the window. */
  readonly dataTypeQueries: number;
  readonly dataTypeShare: number;
  /** Distinct registrable domains that do not exist, within `floodWindowMs`. */
  readonly floodDomains: number;
  readonly floodWindowMs: number;
}

/**
 * Measured on captures of iodine, dnscat2, dns2tcp and ozymandns against 900,000 benign queries: tunnels bring 87 to 242
 * distinct names and 1,200 to 44,000 bytes of them in a minute, benign domains 14 and 168 at most; five thousand bytes in an
 * hour are less than a tenth of what the slowest of them brings. Ten domains that do
 * not exist in five minutes are far above what services ask for and far below what generated names need.
 */
export const DEFAULT_DNS_SETTINGS: DnsDetectorSettings = {
  windowMs: 60_000,
  tunnelNames: 50,
  tunnelBytes: 1_000,
  slowBytes: 5_000,
  slowWindowMs: 3_600_000,
  dataTypeQueries: 20,
  dataTypeShare: 0.5,
  floodDomains: 10,
  floodWindowMs: 300_000,
};

/** Types that only tunnels ask for: NULL, and the private range that iodine uses. */
const TUNNEL_TYPES = (type: number) => type === 10 || (type >= 65280 && type <= 65534);
/** Types whose answers carry data: CNAME, TXT, KEY. */
const DATA_TYPES = new Set([5, 16, 25]);
/** Where search paths and reverse look-ups end: many distinct names are normal there. */
const ORDINARY = /(^|\.)(in-addr\.arpa|ip6\.arpa|local|internal)$/;
const DOMAINS_MAX = 1_024;
const NAMES_MAX = 256;
/** The highest thresholds that may be set: no more is kept. */
export const TUNNEL_NAMES_MAX = NAMES_MAX;
export const FLOOD_DOMAINS_MAX = DOMAINS_MAX;

interface Window {
  beginMs: number;
  names: Set<string>;
  bytes: number;
  queries: number;
  dataQueries: number;
}

/** Names of one domain over a longer time. Which there were is known by one of so many bits each: two may be taken for one. */
const SLOW_BITS = 2_048;
/** Bytes of a name that carries something, on average: `www.example.com.corp` or `255.253.11.10.zen` have fewer. */
const SLOW_MEAN = 24;

interface SlowWindow {
  readonly beginMs: number;
  readonly seen: Uint32Array;
  names: number;
  bytes: number;
}

/** A number of 32 bits for a text (FNV-1a). */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i += 1) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

/** The window of a domain, a new one where the last is over; undefined where there is no room for one more. */
function windowIn<Each extends { readonly beginMs: number }>(
  windows: Map<string, Each>,
  domain: string,
  { nowMs, lengthMs }: { readonly nowMs: number; readonly lengthMs: number },
  make: () => Each,
): Each | undefined {
  const known = windows.get(domain);
  if (known && nowMs - known.beginMs < lengthMs) return known;
  if (!known && windows.size >= DOMAINS_MAX) {
    for (const [other, { beginMs }] of windows) if (nowMs - beginMs >= lengthMs) windows.delete(other);
    if (windows.size >= DOMAINS_MAX) return undefined;
  }
  const fresh = make();
  windows.set(domain, fresh);
  return fresh;
}

/** What a detector found, in one sentence, and the registrable domain that it is about. */
export interface DnsFinding {
  readonly detector: "dns_tunnel" | "dns_flood";
  readonly domain: string;
  readonly message: string;
}

/** The name that somebody registered: by the Public Suffix List with its private part, else the whole name. */
export function registrableDomain(name: string): string {
  return getDomain(name, { allowPrivateDomains: true, validateHostname: false }) ?? name;
}

/** Finds DNS tunnels and floods of names that do not exist, for one container. Bounded; new domains wait when full. */
export class DnsDetector {
  readonly #settings: DnsDetectorSettings;
  readonly #windows = new Map<string, Window>();
  readonly #slow = new Map<string, SlowWindow>();
  readonly #missing = new Map<string, number>();

  constructor(settings: DnsDetectorSettings = DEFAULT_DNS_SETTINGS) {
    this.#settings = settings;
  }

  /** A query that the model does not hold. */
  takeQuery({ name, recordType }: LookUp, nowMs: number): DnsFinding | undefined {
    if (ORDINARY.test(name)) return undefined;
    const domain = registrableDomain(name);
    if (TUNNEL_TYPES(recordType)) {
      const message = `a look-up below \`${domain}\` has record type ${recordType}, which only tunnels use`;
      return { detector: "dns_tunnel", domain, message };
    }
    const below = name.slice(0, Math.max(0, name.length - domain.length - 1));
    return this.#takeFast(domain, below, recordType, nowMs) ?? this.#takeSlow(domain, below, nowMs);
  }

  /** An answer that says that a name does not exist. */
  takeMissing(name: string, nowMs: number): DnsFinding | undefined {
    if (ORDINARY.test(name)) return undefined;
    const { floodDomains, floodWindowMs } = this.#settings;
    for (const [domain, atMs] of this.#missing) if (nowMs - atMs >= floodWindowMs) this.#missing.delete(domain);
    if (this.#missing.size < DOMAINS_MAX) this.#missing.set(registrableDomain(name), nowMs);
    if (this.#missing.size < floodDomains) return undefined;
    const domains = [...this.#missing.keys()];
    this.#missing.clear();
    const message = `${domains.length} domains that do not exist were looked up, among them ${domains
      .slice(0, 3)
      .map((domain) => `\`${domain}\``)
      .join(", ")}`;
    return { detector: "dns_flood", domain: domains[0] ?? "", message };
  }

  #takeFast(domain: string, below: string, recordType: number, nowMs: number): DnsFinding | undefined {
    const make = (): Window => ({ beginMs: nowMs, names: new Set(), bytes: 0, queries: 0, dataQueries: 0 });
    const window = windowIn(this.#windows, domain, { nowMs, lengthMs: this.#settings.windowMs }, make);
    if (!window) return undefined;
    window.queries += 1;
    if (DATA_TYPES.has(recordType)) window.dataQueries += 1;
    if (below !== "" && !window.names.has(below)) {
      window.bytes += below.length;
      if (window.names.size < NAMES_MAX) window.names.add(below);
    }
    return this.#judge(domain, window);
  }

  #takeSlow(domain: string, below: string, nowMs: number): DnsFinding | undefined {
    const { slowWindowMs: lengthMs, slowBytes, tunnelNames } = this.#settings;
    const make = () => ({ beginMs: nowMs, seen: new Uint32Array(SLOW_BITS / 32), names: 0, bytes: 0 });
    const window = below === "" ? undefined : windowIn(this.#slow, domain, { nowMs, lengthMs }, make);
    if (!window) return undefined;
    const bit = hashOf(below) % SLOW_BITS;
    const word = window.seen[bit >>> 5] ?? 0;
    if (word & (1 << (bit & 31))) return undefined;
    window.seen[bit >>> 5] = word | (1 << (bit & 31));
    window.names += 1;
    window.bytes += below.length;
    const { names, bytes } = window;
    if (names < tunnelNames || bytes < slowBytes || bytes < names * SLOW_MEAN) return undefined;
    this.#slow.delete(domain);
    const minutes = Math.round(lengthMs / 60_000);
    const message = `${names} distinct names with ${bytes} bytes were looked up below \`${domain}\` within ${minutes} minutes, as slow tunnels do`;
    return { detector: "dns_tunnel", domain, message };
  }

  #judge(domain: string, window: Window): DnsFinding | undefined {
    const { tunnelNames, tunnelBytes, dataTypeQueries, dataTypeShare } = this.#settings;
    const { names, bytes, queries, dataQueries } = window;
    const isBusy = names.size >= tunnelNames && bytes >= tunnelBytes;
    const isData = queries >= dataTypeQueries && dataQueries / queries > dataTypeShare && names.size >= queries / 2;
    if (!isBusy && !isData) return undefined;
    this.#windows.delete(domain);
    this.#slow.delete(domain);
    const message = `${names.size} distinct names with ${bytes} bytes were looked up below \`${domain}\` within a minute, as tunnels do`;
    return { detector: "dns_tunnel", domain, message };
  }
}
