import { DEFAULT_DNS_SETTINGS, type DnsDetectorSettings } from "./dns.ts";
import { DEFAULT_SCAN_SETTINGS, type ScanSettings } from "./port-scan.ts";

/** Thresholds of detectors that count over many events. */
export interface DetectorSettings {
  readonly scan: ScanSettings;
  readonly dns: DnsDetectorSettings;
}

export const DEFAULT_DETECTORS: DetectorSettings = { scan: DEFAULT_SCAN_SETTINGS, dns: DEFAULT_DNS_SETTINGS };
