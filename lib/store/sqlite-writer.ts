import { DatabaseSync, type StatementSync } from "node:sqlite";
import { parentPort, workerData } from "node:worker_threads";

/** One write, as it crosses into the writer thread. */
export interface WriteRequest {
  readonly number: number;
  readonly sql: string;
  readonly parameters: readonly (string | number)[];
}

/** What became of a write: rows it returned, or why it failed. */
export interface WriteAnswer {
  readonly number: number;
  readonly rows: readonly Record<string, unknown>[];
  readonly changes: number;
  readonly error?: string;
}

/**
 * The writer thread: takes whatever writes have gathered and commits them together, so that many callers share one
 * flush to disk. Answers leave only after the commit.
 */
function serve(path: string): void {
  const database = new DatabaseSync(path);
  database.exec("PRAGMA busy_timeout = 5000");
  const statements = new Map<string, StatementSync>();
  const prepare = (sql: string): StatementSync => {
    const known = statements.get(sql) ?? database.prepare(sql);
    statements.set(sql, known);
    return known;
  };
  const run = ({ number, sql, parameters }: WriteRequest): WriteAnswer => {
    try {
      const statement = prepare(sql);
      if (/\bRETURNING\b/.test(sql)) {
        const rows = statement.all(...parameters) as Record<string, unknown>[];
        return { number, rows: rows.map((row) => ({ ...row })), changes: rows.length };
      }
      return { number, rows: [], changes: Number(statement.run(...parameters).changes) };
    } catch (error) {
      return { number, rows: [], changes: 0, error: (error as Error).message };
    }
  };
  parentPort?.on("message", (requests: readonly WriteRequest[] | "close") => {
    if (requests === "close") {
      database.close();
      parentPort?.close();
      return;
    }
    try {
      database.exec("BEGIN IMMEDIATE");
      const answers: WriteAnswer[] = [];
      for (const request of requests) {
        answers.push(run(request));
        // A full disk rolls back by itself: what came after would be written outside any transaction.
        if (!database.isTransaction) throw new Error(answers.at(-1)?.error ?? "the transaction was rolled back");
      }
      database.exec("COMMIT");
      parentPort?.postMessage(answers);
    } catch (error) {
      if (database.isTransaction) database.exec("ROLLBACK");
      const message = (error as Error).message;
      parentPort?.postMessage(requests.map(({ number }) => ({ number, rows: [], changes: 0, error: message })));
    }
  });
}

if (parentPort) serve((workerData as { path: string }).path);
