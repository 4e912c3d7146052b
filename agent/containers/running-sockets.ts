import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import type { AddressClasses } from "#core/matching/address-class.ts";
import type { Actor, ConnectFrame, ContainerFrame, EventHead, ListenFrame, SocketFrame } from "../wire/frames.ts";
import { ConnectFlag, ListenFlag } from "../wire/layout.ts";

/** Open files of one process, and sockets of one container, that are looked at. */
const FILES_MAX = 4_096;
const SOCKETS_MAX = 16_384;
/** States of /proc/net: established, closed by the other end only, listening, and a datagram socket without a peer. */
const ESTABLISHED = "01";
const CLOSE_WAIT = "08";
const LISTENING = "0A";
const UNCONNECTED = "07";
/** Ports that the kernel gives to sockets that did not choose, as the sensor has them. */
const EPHEMERAL = { first: 32_768, last: 60_999 };
const AF = { inet: 2, packet: 17, inet6: 10 } as const;
const SOCK_RAW = 3;
const CLASS_FLAGS = { loopback: ConnectFlag.LOOPBACK, internal: 0, internet: ConnectFlag.INTERNET } as const;

interface Socket {
  readonly address: Buffer;
  readonly port: number;
  readonly peer: Buffer;
  readonly peerPort: number;
  readonly state: string;
  readonly inode: string;
}

/** An address of /proc/net: words of 32 bits in the machine's order; an IPv4 one may come as ::ffff:a.b.c.d. */
function addressOf(hex: string): Buffer {
  const words = hex.match(/.{8}/g) ?? [];
  const bytes = Buffer.concat(words.map((word) => Buffer.from(word, "hex").reverse()));
  const isMapped = bytes.length === 16 && bytes.readBigUInt64BE(0) === 0n && bytes.readUInt32BE(8) === 0xffff;
  return isMapped ? bytes.subarray(12) : bytes;
}

function endOf(text = ""): { address: Buffer; port: number } {
  const [address = "", port = "0"] = text.split(":");
  return { address: addressOf(address), port: Number.parseInt(port, 16) };
}

function linesOf(pid: number, file: string): string[][] {
  try {
    const text = readFileSync(`/proc/${pid}/net/${file}`, "latin1");
    return text
      .split("\n")
      .slice(1)
      .map((line) => line.trim().split(/\s+/));
  } catch {
    return []; // gone, or no IPv6
  }
}

function socketsIn(pid: number, file: string): Socket[] {
  return linesOf(pid, file).map((fields) => {
    const { address, port } = endOf(fields[1]);
    const peer = endOf(fields[2]);
    const [, , , state = "", , , , , , inode = ""] = fields;
    return { address, port, peer: peer.address, peerPort: peer.port, state, inode };
  });
}

/** Who has which socket open, by the socket's inode. */
function holders(actors: readonly Actor[]): Map<string, Actor> {
  const found = new Map<string, Actor>();
  for (const actor of actors) {
    try {
      for (const file of readdirSync(`/proc/${actor.pid}/fd`).slice(0, FILES_MAX)) {
        const link = readlinkSync(`/proc/${actor.pid}/fd/${file}`);
        if (link.startsWith("socket:[") && found.size < SOCKETS_MAX)
          found.set(link.slice("socket:[".length, -1), actor);
      }
    } catch {
      // It has gone meanwhile, or closed the file.
    }
  }
  return found;
}

/** TCP connections of the network that a process is in, as links of /proc/PID/fd name them. */
export function connectionsOf(pid: number): Set<string> {
  const sockets = [...socketsIn(pid, "tcp"), ...socketsIn(pid, "tcp6")];
  const connected = sockets.filter(({ state }) => state === ESTABLISHED || state === CLOSE_WAIT);
  return new Set(connected.map(({ inode }) => `socket:[${inode}]`));
}

class RunningSockets {
  readonly #base: EventHead;
  readonly #holders: ReadonlyMap<string, Actor>;
  readonly #classes: AddressClasses;

  constructor(base: EventHead, actors: readonly Actor[], classes: AddressClasses) {
    this.#base = base;
    this.#holders = holders(actors);
    this.#classes = classes;
  }

  listening(sockets: readonly Socket[], transport: number): ListenFrame[] {
    const state = transport === 6 ? LISTENING : UNCONNECTED;
    return sockets.flatMap((socket): ListenFrame[] => {
      const actor = this.#holders.get(socket.inode);
      if (!actor || socket.state !== state) return [];
      const { address, port } = socket;
      const isEphemeral = port >= EPHEMERAL.first && port <= EPHEMERAL.last;
      // A datagram socket of that range is somebody's client.
      if (isEphemeral && transport !== 6) return [];
      const flags = isEphemeral ? ListenFlag.EPHEMERAL : 0;
      return [{ kind: "listen", ...this.#base, actor, address, port, transport, flags }];
    });
  }

  /** Connections that were made from here: their own port is none that somebody listens at. Each destination once. */
  connected(sockets: readonly Socket[], transport: number): ConnectFrame[] {
    const served = new Set(sockets.filter(({ state }) => state === LISTENING).map(({ port }) => port));
    const made = sockets.filter(({ state, port }) => state === ESTABLISHED && !served.has(port));
    const byDestination = new Map<string, ConnectFrame>();
    for (const { inode, peer: address, peerPort: port } of made) {
      const actor = this.#holders.get(inode);
      const key = `${address.toString("hex")} ${port}`;
      if (!actor || byDestination.has(key)) continue;
      const domain = Buffer.alloc(0);
      const flags = this.#flagsOf(address);
      byDestination.set(key, { kind: "connect", ...this.#base, actor, address, port, transport, flags, domain });
    }
    return [...byDestination.values()];
  }

  /** Raw sockets have their protocol for a port; packet sockets have it in a column of their own. */
  raw(pid: number): SocketFrame[] {
    const ofFamily = (file: string, family: number) =>
      socketsIn(pid, file).map(({ inode, port: protocol }) => ({ inode, family, type: SOCK_RAW, protocol }));
    const packets = linesOf(pid, "packet").map(([, , type = "", protocol = "", , , , , inode = ""]) => ({
      inode,
      family: AF.packet,
      type: Number(type),
      protocol: Number.parseInt(protocol, 16),
    }));
    const all = [...ofFamily("raw", AF.inet), ...ofFamily("raw6", AF.inet6), ...packets];
    return all.flatMap(({ inode, ...socket }): SocketFrame[] => {
      const actor = this.#holders.get(inode);
      return actor ? [{ kind: "socket", ...this.#base, actor, ...socket }] : [];
    });
  }

  #flagsOf(address: Uint8Array): number {
    return CLASS_FLAGS[this.#classes.of(address)];
  }
}

/**
 * Sockets that the processes of a container have open, as if they had just been opened. A network may be shared: only those
 * are theirs. What an address was resolved from is not known any more.
 */
export function runningSockets(base: EventHead, actors: readonly Actor[], classes: AddressClasses): ContainerFrame[] {
  const first = actors[0]?.pid;
  if (first === undefined) return [];
  const sockets = new RunningSockets(base, actors, classes);
  const tcp = [...socketsIn(first, "tcp"), ...socketsIn(first, "tcp6")];
  const udp = [...socketsIn(first, "udp"), ...socketsIn(first, "udp6")];
  return [
    ...sockets.listening(tcp, 6),
    ...sockets.listening(udp, 17),
    ...sockets.connected(tcp, 6),
    ...sockets.connected(udp, 17),
    ...sockets.raw(first),
  ];
}
