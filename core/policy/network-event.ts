import { Transport } from "#gen/gabion/event/v1/event_pb.ts";
import { addressText } from "../matching/address.ts";

/** An outbound connection or datagram as policy looks at it. */
export interface ConnectEvent {
  readonly transport: Transport;
  /** 4 or 16 bytes. */
  readonly address: Uint8Array;
  readonly port: number;
  /** Name that the address was resolved from; empty for none. */
  readonly domain: string;
  readonly isInternet: boolean;
  readonly isLoopback: boolean;
  /** True where look-ups are watched and none came before. */
  readonly isDirect: boolean;
}

/** A socket that listens, or a datagram socket bound to a port. */
export interface ListenEvent {
  readonly transport: Transport;
  readonly port: number;
  /** True if the kernel chose the port, or it is of the range that it chooses from. */
  readonly isEphemeral: boolean;
}

/** A raw or packet socket, or one of a transport whose connections are not followed. */
export interface RawSocketEvent {
  readonly family: number;
  readonly protocol: number;
  /** Number of the socket's type, 3 for a raw one. */
  readonly type: number;
  /** Real path of the program that opened it. */
  readonly processPath: string;
  /** Name that it was run as; empty where it is not known. */
  readonly processName: string;
}

const NAMES: Partial<Record<Transport, string>> = { [Transport.TCP]: "tcp", [Transport.UDP]: "udp" };

/** A port as people write it, for example `tcp/443`. */
export function portText(transport: Transport, port: number): string {
  return `${NAMES[transport] ?? "other"}/${port === 0 ? "ephemeral" : port}`;
}

/** A destination as people are told of it. */
export function destinationText({ address, port, transport, domain }: ConnectEvent): string {
  const name = domain === "" ? "" : ` (${domain})`;
  return `\`${addressText(address)}\`${name} ${portText(transport, port)}`;
}
