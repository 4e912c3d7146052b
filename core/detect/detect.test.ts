import { expect, test } from "vitest";
import { Transport } from "#gen/gabion/event/v1/event_pb.ts";
import { DnsDetector, registrableDomain } from "./dns.ts";
import { encryptedDnsReason } from "./encrypted-dns.ts";
import { type Contact, PortScanDetector, scanText } from "./port-scan.ts";

const failed = (address: string, port: number, transport: Transport = Transport.TCP): Contact => ({
  address,
  port,
  transport,
  isFailed: true,
  isNew: false,
  isDark: false,
});
const answered = (address: string, port: number): Contact => ({ ...failed(address, port), isFailed: false });

test("many ports of many hosts, few of each, are a port scan", () => {
  const detector = new PortScanDetector();
  const found = Array.from({ length: 120 }, (_, i) =>
    // Ten ports of each of twelve hosts, and no port twice.
    detector.take(failed(`10.0.0.${Math.floor(i / 10)}`, 1_000 + i), i),
  );
  expect(found.findIndex(Boolean)).toBe(99);
  const scan = found[99];
  expect(scan && scanText(scan)).toBe(
    "a port scan: 100 ports of 10 hosts were tried; 100 of 100 first contacts failed",
  );
});

test("fifteen failed ports of one host are a vertical scan, fourteen are none", () => {
  const detector = new PortScanDetector();
  for (let port = 1; port < 15; port += 1) expect(detector.take(failed("h", port), port)).toBeUndefined();
  const scan = detector.take(failed("h", 15), 15);
  expect(scan).toMatchObject({ isHorizontal: false, portCount: 15, addressCount: 1, failedCount: 15 });
  expect(scan && scanText(scan)).toBe("a port scan: 15 ports of h were tried; 15 of 15 first contacts failed");
});

test("twenty-five hosts on one port are a horizontal scan", () => {
  const detector = new PortScanDetector();
  const found = Array.from({ length: 25 }, (_, i) => detector.take(failed(`10.0.0.${i}`, 22), i)).filter(Boolean);
  expect(found).toMatchObject([{ isHorizontal: true, addressCount: 25, portCount: 1 }]);
});

test("a service that tries one dead upstream for ever is none", () => {
  const detector = new PortScanDetector();
  for (let i = 0; i < 100_000; i += 1) expect(detector.take(failed("db", 5432), i)).toBeUndefined();
});

test("a crawler that reaches most of its hosts is none", () => {
  const detector = new PortScanDetector();
  for (let i = 0; i < 2_000; i += 1) {
    const contact = i % 5 === 0 ? failed(`site${i}`, 443) : answered(`site${i}`, 443);
    expect(detector.take(contact, i * 10)).toBeUndefined();
  }
});

test("a health checker over three hundred healthy targets, with a few down, is none", () => {
  const detector = new PortScanDetector();
  for (let round = 0; round < 20; round += 1) {
    for (let i = 0; i < 300; i += 1) {
      const contact = i < 10 ? failed(`pod${i}`, 8080) : answered(`pod${i}`, 8080);
      expect(detector.take(contact, round * 10_000 + i)).toBeUndefined();
    }
  }
});

test("fifteen UDP ports of one host are a scan; a resolver whose partners are gone is none", () => {
  const detector = new PortScanDetector();
  const udp = (address: string, port: number, atMs: number) =>
    detector.take(failed(address, port, Transport.UDP), atMs);
  for (let i = 0; i < 200; i += 1) expect(udp(`server${i}`, 53, i)).toBeUndefined();
  // What failed by TCP is another matter.
  for (let port = 1; port < 15; port += 1) expect(detector.take(failed("h", port), 300 + port)).toBeUndefined();
  for (let port = 1; port < 15; port += 1) expect(udp("h", port, 400 + port)).toBeUndefined();
  const scan = udp("h", 15, 500);
  expect(scan && scanText(scan)).toBe("a port scan: 15 UDP ports of h were tried; 15 of 15 first contacts failed");
});

const unknown = (address: string, port: number): Contact => ({ ...failed(address, port), isNew: true });

test("six first contacts in a row that the model does not know, and that fail, are a scan; five are none", () => {
  const detector = new PortScanDetector();
  for (let i = 0; i < 5; i += 1) expect(detector.take(unknown(`10.0.${i}.1`, 1_000 + i), i)).toBeUndefined();
  const scan = detector.take(unknown("10.0.9.1", 1_009), 6);
  expect(scan).toMatchObject({ by: "sequence", failedCount: 6, contactCount: 6 });
  expect(scan && scanText(scan)).toBe(
    "a port scan: 6 ports of 6 hosts were tried; 6 of 6 first contacts that the model does not know failed",
  );
});

test("contacts that succeed take the weight of those that fail; four in a row begin anew", () => {
  const detector = new PortScanDetector();
  const take = (i: number, isFailed: boolean) => detector.take({ ...unknown(`10.1.${i}.1`, 80), isFailed }, i);
  for (let i = 0; i < 4; i += 1) expect(take(i, false)).toBeUndefined();
  for (let i = 4; i < 9; i += 1) expect(take(i, true)).toBeUndefined();
  expect(take(9, false)).toBeUndefined();
  expect(take(10, true)).toMatchObject({ by: "sequence", isHorizontal: true, failedCount: 6, contactCount: 7 });
});

test("three internal addresses that cannot be reached are a scan where the model does not know the port; two are none", () => {
  const detector = new PortScanDetector();
  const dark = (address: string, port: number, isNew = true): Contact => ({
    ...failed(address, port),
    isNew,
    isDark: true,
  });
  // Peers that are gone, at a port that belongs to the service.
  for (let i = 0; i < 20; i += 1) expect(detector.take(dark(`10.3.0.${i}`, 7_000, false), i)).toBeUndefined();
  // The same address over and over, as somebody who waits for it to come.
  for (let i = 0; i < 5; i += 1) expect(detector.take(dark("10.4.0.1", 2_000 + i), 100 + i)).toBeUndefined();
  expect(detector.take(dark("10.4.0.2", 22), 200)).toMatchObject({ by: "sequence" });
  expect(detector.take(dark("10.4.0.3", 22), 300_000)).toBeUndefined();
  expect(detector.take(dark("10.4.0.4", 22), 300_001)).toBeUndefined();
  const scan = detector.take(dark("10.4.0.5", 22), 300_002);
  expect(scan).toMatchObject({ by: "dark", isHorizontal: true, addressCount: 3, portCount: 1, contactCount: 3 });
  expect(scan && scanText(scan)).toBe(
    "a port scan: 3 internal addresses that cannot be reached were tried, the first on port 22",
  );
});

test("new contacts that fail now and then, further apart than the window, are none", () => {
  const detector = new PortScanDetector();
  for (let i = 0; i < 50; i += 1) expect(detector.take(unknown(`10.2.${i}.1`, 80), i * 120_000)).toBeUndefined();
});

test("a scan slower than the window is none, and memory stays bounded in a flood", () => {
  const detector = new PortScanDetector();
  for (let i = 0; i < 100; i += 1) expect(detector.take(failed("h", i), i * 60_000)).toBeUndefined();
  for (let i = 0; i < 50_000; i += 1) detector.take(answered(`a${i}`, i % 65_536), 7_000_000 + i);
});

const query = (name: string, recordType = 1) => ({ name, recordType, payloadLength: name.length + 18 });

test("a tunnel brings many long distinct names below one domain", () => {
  const detector = new DnsDetector();
  const found = Array.from({ length: 60 }, (_, i) =>
    detector.takeQuery(query(`${i}.${"x".repeat(30)}.t.example.com`, 16), i * 100),
  ).filter(Boolean);
  expect(found[0]).toMatchObject({ detector: "dns_tunnel", domain: "example.com" });
});

test("a tunnel that takes its time is found within an hour", () => {
  const detector = new DnsDetector();
  const found = Array.from({ length: 240 }, (_, i) =>
    detector.takeQuery(query(`${i}-${"x".repeat(25)}.t.example.com`), i * 15_000),
  ).filter(Boolean);
  expect(found).toMatchObject([{ detector: "dns_tunnel", domain: "example.com" }]);
  expect(found[0]?.message).toMatch(
    /distinct names with 50\d\d bytes were looked up below `example.com` within 60 minutes/,
  );
});

test("names that come again, few long ones, and many over days are no slow tunnel", () => {
  const detector = new DnsDetector();
  for (let i = 0; i < 5_000; i += 1) {
    expect(detector.takeQuery(query(`tenant-${i % 200}.example.com`), i * 700)).toBeUndefined();
    expect(detector.takeQuery(query(`${"y".repeat(150)}${i % 40}.example.net`), i * 700)).toBeUndefined();
    expect(detector.takeQuery(query(`${i}.${"z".repeat(30)}.example.org`), i * 60_000)).toBeUndefined();
  }
});

test("neither who asks a list of senders, nor who tries a search path behind each name, is a slow tunnel", () => {
  const detector = new DnsDetector();
  for (let i = 0; i < 3_000; i += 1) {
    const sender = `${i % 256}.253.${i >> 8}.10.zen.example.org`;
    expect(detector.takeQuery(query(sender), i * 3_000)).toBeUndefined();
    expect(detector.takeQuery(query(`www.site${i}.com.eu-west-1.compute.internal`), i * 3_000)).toBeUndefined();
    expect(detector.takeQuery(query(`www.site${i}.com.corp.example.com`), i * 3_000)).toBeUndefined();
  }
});

test("a record type that only tunnels use is found at once", () => {
  expect(new DnsDetector().takeQuery(query("a.example.com", 10), 0)).toMatchObject({ domain: "example.com" });
  expect(new DnsDetector().takeQuery(query("a.example.com", 65_399), 0)).toBeDefined();
});

test("ordinary look-ups, search paths and reverse look-ups are no tunnel", () => {
  const detector = new DnsDetector();
  for (let i = 0; i < 2_000; i += 1) {
    expect(detector.takeQuery(query(`service-${i % 14}.example.com`), i * 50)).toBeUndefined();
    expect(detector.takeQuery(query(`pod-${i}.svc.cluster.local`, 16), i * 50)).toBeUndefined();
    expect(detector.takeQuery(query(`${i % 256}.0.0.10.in-addr.arpa`, 12), i * 50)).toBeUndefined();
  }
});

test("ten domains that do not exist in five minutes are a flood, one asked for ten times is none", () => {
  const detector = new DnsDetector();
  for (let i = 0; i < 10; i += 1) expect(detector.takeMissing("gone.example.com", i)).toBeUndefined();
  const found = Array.from({ length: 10 }, (_, i) => detector.takeMissing(`x${i}abc.net`, 100 + i)).filter(Boolean);
  expect(found[0]).toMatchObject({ detector: "dns_flood" });
});

test("the registrable domain follows the Public Suffix List, its private part too", () => {
  expect(registrableDomain("a.b.example.co.uk")).toBe("example.co.uk");
  expect(registrableDomain("x.bucket.s3.eu-west-1.amazonaws.com")).toBe("bucket.s3.eu-west-1.amazonaws.com");
  expect(registrableDomain("host.internal")).toBe("host.internal");
});

test("resolvers over TLS and HTTPS are known by port, name and address", () => {
  expect(encryptedDnsReason("192.0.2.1", 853, "")).toContain("853");
  expect(encryptedDnsReason("192.0.2.1", 443, "dns.google")).toContain("dns.google");
  expect(encryptedDnsReason("1.1.1.1", 443, "")).toContain("1.1.1.1");
  expect(encryptedDnsReason("192.0.2.1", 443, "example.com")).toBeUndefined();
});
