import { z } from "zod";
import type { ConfigOf, Settings } from "../config/config.ts";

const text = (fallback: string) => z.string().default(fallback);
const port = z.number().int().min(0).max(65_535);

/** Settings that every service has. */
export function serviceSettings(defaultPort: number) {
  return {
    "listen.host": { type: text("127.0.0.1"), description: "address to listen on" },
    "listen.port": { type: port.default(defaultPort), description: "port to listen on, 0 for any" },
    "data.directory": { type: text("data"), description: "folder of the embedded store" },
    "pki.directory": { type: text("data/pki"), description: "folder of certificates, keys and the local authority" },
    "mongodb.url": { type: text(""), description: "connection string; empty for the embedded store" },
    "nats.servers": { type: text("127.0.0.1:4222"), description: "NATS servers, separated by commas" },
    "log.level": {
      type: z.enum(["trace", "debug", "info", "warn", "error"]).default("info"),
      description: "trace, debug, info, warn or error",
    },
  } satisfies Settings;
}

export type ServiceConfig = ConfigOf<ReturnType<typeof serviceSettings>>;

/** Ports that the services listen on unless told otherwise. */
export const SERVICE_PORTS = { model: 7401, rule: 7402, intel: 7403, audit: 7404 } as const;
export type ServiceName = keyof typeof SERVICE_PORTS;
