import { isWithin, mappedAddress, parsePrefix } from "./address.ts";

/** What an address is, as `is_internal` of network.bpf.h has it. */
export type AddressClass = "loopback" | "internal" | "internet";

const prefixes = (texts: readonly string[]) => texts.flatMap((text) => parsePrefix(text) ?? []);

const LOOPBACK = prefixes(["127.0.0.0/8", "0.0.0.0/32", "::1/128", "::/128"]);
/** RFC 1918, link-local, multicast and what lies above it, unique local addresses. */
const INTERNAL = prefixes([
  ...["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "224.0.0.0/3"],
  ...["fc00::/7", "fe80::/10", "ff00::/8"],
]);

/** Classes of addresses, where some ranges are the cluster's own. */
export class AddressClasses {
  readonly #internal: typeof INTERNAL;

  constructor(ownRanges: readonly string[]) {
    this.#internal = [...INTERNAL, ...prefixes(ownRanges)];
  }

  /** Of an address of 4 or 16 bytes. */
  of(address: Uint8Array): AddressClass {
    const mapped = mappedAddress(address);
    if (LOOPBACK.some((prefix) => isWithin(prefix, mapped))) return "loopback";
    return this.#internal.some((prefix) => isWithin(prefix, mapped)) ? "internal" : "internet";
  }
}
