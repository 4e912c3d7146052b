/**
 * Public resolvers that answer over TLS or HTTPS, by name and address: a container that asks them asks past the resolver
 * that it was given. A choice of the largest from the public lists of DNS-over-HTTPS servers.
 */
export const ENCRYPTED_DNS_NAMES: readonly string[] = [
  "dns.google",
  "dns.google.com",
  "8888.google",
  "cloudflare-dns.com",
  "one.one.one.one",
  "1dot1dot1dot1.cloudflare-dns.com",
  "mozilla.cloudflare-dns.com",
  "dns.quad9.net",
  "dns9.quad9.net",
  "doh.opendns.com",
  "dns.adguard.com",
  "dns.adguard-dns.com",
  "dns.nextdns.io",
  "doh.cleanbrowsing.org",
  "doh.mullvad.net",
  "dns.mullvad.net",
  "dns.alidns.com",
  "doh.pub",
  "dns0.eu",
  "doh.libredns.gr",
];

export const ENCRYPTED_DNS_ADDRESSES: readonly string[] = [
  "1.1.1.1",
  "1.0.0.1",
  "8.8.8.8",
  "8.8.4.4",
  "9.9.9.9",
  "149.112.112.112",
  "208.67.222.222",
  "208.67.220.220",
  "94.140.14.14",
  "94.140.15.15",
  "223.5.5.5",
  "223.6.6.6",
  "2606:4700:4700::1111",
  "2606:4700:4700::1001",
  "2001:4860:4860::8888",
  "2001:4860:4860::8844",
  "2620:fe::fe",
  "2620:fe::9",
];

const names: ReadonlySet<string> = new Set(ENCRYPTED_DNS_NAMES);
const addresses: ReadonlySet<string> = new Set(ENCRYPTED_DNS_ADDRESSES);
/** DNS over TLS and over QUIC (RFC 7858, RFC 9250). */
export const DNS_OVER_TLS_PORT = 853;
const HTTPS_PORT = 443;

/** Why a destination is a resolver over TLS or HTTPS; undefined where it is none. */
export function encryptedDnsReason(address: string, port: number, domain: string): string | undefined {
  if (port === DNS_OVER_TLS_PORT) return "port 853 is that of DNS over TLS";
  if (port !== HTTPS_PORT) return undefined;
  if (names.has(domain)) return `\`${domain}\` answers DNS over HTTPS`;
  return addresses.has(address) ? `\`${address}\` answers DNS over HTTPS` : undefined;
}

/** True for the name of a resolver over TLS or HTTPS. */
export function isEncryptedDnsName(name: string): boolean {
  return names.has(name);
}
