import { Transport } from "#gen/gabion/event/v1/event_pb.ts";

/** A first contact of a container with a destination. */
export interface Contact {
  /** Address as text. */
  readonly address: string;
  readonly port: number;
  /** Of UDP only failures are known: destinations that a message came back from, saying that nobody listens. */
  readonly transport: Transport;
  readonly isFailed: boolean;
  /** True where the model is complete and does not hold it. */
  readonly isNew: boolean;
  /** True where the network said that such an internal address cannot be reached: mostly nobody has it. */
  readonly isDark: boolean;
}

/** A scan that was found. */
export interface Scan {
  /** True: many hosts on one port. False: many ports on one host, or many of both. */
  readonly isHorizontal: boolean;
  readonly portCount: number;
  readonly addressCount: number;
  readonly failedCount: number;
  readonly contactCount: number;
  /** What was enough: many that failed, few that the model holds none of, or addresses that cannot be reached. */
  readonly by: "count" | "sequence" | "dark";
  /** A few of the destinations, as address and port. */
  readonly samples: readonly Contact[];
}

export interface ScanSettings {
  /** Contacts are looked at together within this time. */
  readonly windowMs: number;
  /** Failed ports on one host. */
  readonly vertical: number;
  /** Failed hosts on one port. */
  readonly horizontal: number;
  /** Failed destinations altogether. */
  readonly total: number;
  /** Internal addresses that cannot be reached, with ports that the model does not hold. */
  readonly dark: number;
  /** Part of the first contacts that must have failed: a crawler reaches most of its hosts, a scanner few. */
  readonly failedShare: number;
  /** Of the sequential test: how likely a first contact succeeds, of a service and of a scanner. */
  readonly serviceSuccess: number;
  readonly scannerSuccess: number;
  /** How likely it may call a service a scanner, and has to call a scanner one. */
  readonly falseAlarm: number;
  readonly detection: number;
}

/**
 * 15 ports on a host and 25 hosts on a port in five minutes are what Zeek's scan policy took for its threshold; 100
 * destinations of any kind besides. Half of the contacts having failed is our own, tried against a crawler. The sequential
 * test is TRW (Jung et al., S&P 2004) with parameters under which six failures in a row are a scan, and four successes
 * begin anew. Three addresses that cannot be reached: from as many hits of a darknet on NCSA's bro-simple-scan lowers
 * its thresholds.
 */
export const DEFAULT_SCAN_SETTINGS: ScanSettings = {
  windowMs: 300_000,
  vertical: 15,
  horizontal: 25,
  total: 100,
  dark: 3,
  failedShare: 0.5,
  serviceSuccess: 0.95,
  scannerSuccess: 0.3,
  falseAlarm: 1e-6,
  detection: 0.99,
};

/** The highest threshold that may be set. */
export const SCAN_MAX = 1_000;
/** Destinations kept for one container: more than any threshold needs. */
const KEPT_MAX = 2 * SCAN_MAX;
const SAMPLES_MAX = 16;

interface Seen extends Contact {
  readonly atMs: number;
}

function isOnePort(contacts: readonly Contact[]): boolean {
  return contacts.every(({ port }) => port === contacts[0]?.port);
}

function counts(contacts: readonly Seen[]): { failed: Seen[]; share: number } {
  const failed = contacts.filter(({ isFailed }) => isFailed);
  return { failed, share: contacts.length === 0 ? 0 : failed.length / contacts.length };
}

/**
 * Finds port scans of one container by its failed first contacts with distinct destinations. A destination counts once,
 * however often it is tried; one that has answered before never comes here. After a finding the window begins anew.
 *
 * A second, sequential test weighs each first contact that the model does not hold: a service mostly knows whom it calls.
 * Within the cluster it knows the port, if not the address: an address there that cannot be reached was not called but tried.
 *
 * UDP counts by ports of one host alone. Who has many partners by UDP, as a resolver has, meets many that are gone, and
 * how many were there is not known; but nobody has fifteen services of one host that are all gone.
 */
export class PortScanDetector {
  readonly #settings: ScanSettings;
  /** By address and port; the oldest first. */
  readonly #seen = new Map<string, Seen>();
  /** First contacts that the model does not hold, since the sequential test began, and how they weigh. */
  #walked: Seen[] = [];
  #weight = 0;

  constructor(settings: ScanSettings = DEFAULT_SCAN_SETTINGS) {
    this.#settings = settings;
  }

  take(contact: Contact, nowMs: number): Scan | undefined {
    this.#forget(nowMs);
    const key = `${contact.address} ${contact.port} ${contact.transport}`;
    const known = this.#seen.get(key);
    if (known && (known.isFailed === contact.isFailed || !known.isFailed)) return undefined;
    this.#seen.delete(key);
    this.#seen.set(key, { ...contact, atMs: nowMs });
    if (this.#seen.size > KEPT_MAX) this.#dropOldest();
    const sequential = this.#walk({ ...contact, atMs: nowMs });
    const scan = (contact.isFailed ? (this.#judge(contact) ?? this.#findDark()) : undefined) ?? sequential;
    if (scan) this.#seen.clear();
    if (scan) this.#walked = [];
    return scan;
  }

  /** Likelihoods as logarithms: of a scanner over a service. */
  #walk(seen: Seen): Scan | undefined {
    const { windowMs, serviceSuccess, scannerSuccess, falseAlarm, detection } = this.#settings;
    if (!seen.isNew || seen.transport === Transport.UDP) return undefined;
    const first = this.#walked[0];
    if (first === undefined || seen.atMs - first.atMs >= windowMs) {
      this.#walked = [];
      this.#weight = 0;
    }
    this.#walked.push(seen);
    this.#weight += seen.isFailed
      ? Math.log((1 - scannerSuccess) / (1 - serviceSuccess))
      : Math.log(scannerSuccess / serviceSuccess);
    if (this.#weight <= Math.log((1 - detection) / (1 - falseAlarm))) this.#walked = [];
    if (this.#weight < Math.log(detection / falseAlarm)) return undefined;
    const failed = this.#walked.filter(({ isFailed }) => isFailed);
    return { ...toScan(this.#walked, failed, isOnePort(failed)), by: "sequence" };
  }

  #findDark(): Scan | undefined {
    const dark = [...this.#seen.values()].filter(({ isDark, isNew }) => isDark && isNew);
    if (new Set(dark.map(({ address }) => address)).size < this.#settings.dark) return undefined;
    return { ...toScan(dark, dark, isOnePort(dark)), by: "dark" };
  }

  #judge({ address, port, transport }: Contact): Scan | undefined {
    const { vertical, horizontal, total, failedShare } = this.#settings;
    const all = [...this.#seen.values()].filter((seen) => seen.transport === transport);
    const onHost = all.filter((seen) => seen.address === address);
    const onPort = all.filter((seen) => seen.port === port);
    const kinds = [
      [onHost, vertical, false],
      [onPort, horizontal, true],
      [all, total, false],
    ] as const;
    for (const [contacts, threshold, isHorizontal] of transport === Transport.UDP ? kinds.slice(0, 1) : kinds) {
      const { failed, share } = counts(contacts);
      if (failed.length >= threshold && share >= failedShare) return toScan(contacts, failed, isHorizontal);
    }
    return undefined;
  }

  #forget(nowMs: number): void {
    for (const [key, { atMs }] of this.#seen) {
      if (nowMs - atMs < this.#settings.windowMs) return;
      this.#seen.delete(key);
    }
  }

  #dropOldest(): void {
    const oldest = this.#seen.keys().next().value;
    if (oldest !== undefined) this.#seen.delete(oldest);
  }
}

function toScan(contacts: readonly Seen[], failed: readonly Seen[], isHorizontal: boolean): Scan {
  return {
    isHorizontal,
    portCount: new Set(failed.map(({ port }) => port)).size,
    addressCount: new Set(failed.map(({ address }) => address)).size,
    failedCount: failed.length,
    contactCount: contacts.length,
    by: "count",
    samples: failed.slice(0, SAMPLES_MAX).map(({ atMs: _, ...contact }) => contact),
  };
}

/** What a scan was of, as exceptions name it: a port of many hosts, or a host with many ports; of many of both the first. */
export function scanObject(isHorizontal: boolean, first: Pick<Contact, "address" | "port"> | undefined): string {
  return isHorizontal ? String(first?.port ?? "") : (first?.address ?? "");
}

/** A scan in one sentence. */
export function scanText(scan: Scan): string {
  const { isHorizontal, portCount, addressCount, failedCount, contactCount, by, samples } = scan;
  const [first] = samples;
  const ports = first?.transport === Transport.UDP ? "UDP ports" : "ports";
  const what = isHorizontal
    ? `${addressCount} hosts were tried on port ${first?.port}`
    : addressCount === 1
      ? `${portCount} ${ports} of ${first?.address} were tried`
      : `${portCount} ports of ${addressCount} hosts were tried`;
  if (by === "dark")
    return `a port scan: ${addressCount} internal addresses that cannot be reached were tried, the first on port ${first?.port}`;
  const which = by === "sequence" ? "first contacts that the model does not know" : "first contacts";
  return `a port scan: ${what}; ${failedCount} of ${contactCount} ${which} failed`;
}
