import { type DescMessage, type MessageShape, toJson } from "@bufbuild/protobuf";
import { type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt";
import { printable } from "#core/text/escape.ts";

/** Forms in which answers are printed. */
export type OutputFormat = "table" | "json";

export interface Column<T> {
  readonly title: string;
  readonly of: (row: T) => string;
  /** Longer texts are cut in tables. */
  readonly maxWidth?: number;
}

/** Writes an answer. Standard output carries answers only. */
export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

function cut(text: string, width: number): string {
  return text.length > width ? `${text.slice(0, width - 1)}…` : text;
}

/** Rows as a table with a title line. Whatever comes from a container was made safe to print before. */
export function toTable<T>(columns: readonly Column<T>[], rows: readonly T[]): string {
  const cells = rows.map((row) => columns.map((column) => cut(printable(column.of(row)), column.maxWidth ?? 200)));
  const lines = [columns.map(({ title }) => title), ...cells];
  const widths = columns.map((_, at) => Math.max(...lines.map((line) => (line[at] as string).length)));
  return lines
    .map((line) =>
      line
        .map((cell, at) => cell.padEnd(widths[at] as number))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** Prints messages in the form asked for; JSON is one array of protobuf's JSON form. */
export function printRows<Desc extends DescMessage>(
  format: OutputFormat,
  schema: Desc,
  rows: readonly MessageShape<Desc>[],
  columns: readonly Column<MessageShape<Desc>>[],
): void {
  if (format === "json")
    print(
      JSON.stringify(
        rows.map((row) => toJson(schema, row)),
        null,
        2,
      ),
    );
  else print(rows.length === 0 ? "nothing" : toTable(columns, rows));
}

/** Prints one message; the text form is made by the caller. */
export function printOne<Desc extends DescMessage>(
  format: OutputFormat,
  schema: Desc,
  message: MessageShape<Desc>,
  text: (message: MessageShape<Desc>) => string,
): void {
  print(format === "json" ? JSON.stringify(toJson(schema, message), null, 2) : text(message));
}

/** Local date and time to the second; a dash for none. */
export function timeText(time: Timestamp | undefined): string {
  if (!time) return "-";
  const date = timestampDate(time);
  const local = new Date(date.getTime() - date.getTimezoneOffset() * 60_000);
  return local.toISOString().slice(0, 19).replace("T", " ");
}
