import { type Logger, pino } from "pino";

export type { Logger };

/** Paths that never leave the process in a log line. */
const SECRET_PATHS = [
  "password",
  "secret",
  "token",
  "seed",
  "*.password",
  "*.secret",
  "*.token",
  "*.seed",
  "privateKey",
];

/** A structured logger: JSON lines on standard error, so that standard output stays for answers. */
export function createLogger(name: string, level = "info"): Logger {
  return pino(
    { name, level, redact: { paths: SECRET_PATHS, censor: "[secret]" }, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination({ fd: 2, sync: true }),
  );
}
