import type { Command } from "commander";
import { type Connection, connect } from "./connection.ts";
import type { OutputFormat } from "./output.ts";

/** Options that every command has. */
export interface Shared {
  readonly data: string;
  readonly operator: string;
  readonly output: OutputFormat;
}

/** Wraps an action: connects, hands over the shared options and the arguments, disconnects. */
export function withConnection<Args extends unknown[]>(
  action: (connection: Connection, shared: Shared, ...args: Args) => Promise<void>,
): (...args: unknown[]) => Promise<void> {
  return async (...all: unknown[]) => {
    const command = all.at(-1) as Command;
    const shared = command.optsWithGlobals<Shared>();
    using connection = connect(shared);
    // commander hands over the arguments, the command's own options and the command
    await action(connection, shared, ...(all.slice(0, -2) as Args));
  };
}
