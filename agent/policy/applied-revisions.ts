import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

interface State {
  readonly revisions: Readonly<Record<string, string>>;
  /** Verdicts carried out, with the end of their time: none is carried out twice. */
  readonly verdicts: Readonly<Record<string, number>>;
}

/** Subjects remembered; models come and go. */
const SUBJECTS_MAX = 20_000;

/**
 * What has been applied, kept over restarts: the highest revision of each subject, so that nobody can bring back an old
 * policy by repeating its message, and the verdicts carried out.
 */
export class AppliedRevisions {
  readonly #file: string;
  readonly #revisions = new Map<string, bigint>();
  readonly #verdicts = new Map<string, number>();

  constructor(file: string) {
    this.#file = file;
    if (!existsSync(file)) return;
    const state = JSON.parse(readFileSync(file, "utf8")) as State;
    for (const [subject, revision] of Object.entries(state.revisions)) this.#revisions.set(subject, BigInt(revision));
    for (const [id, untilMs] of Object.entries(state.verdicts)) this.#verdicts.set(id, untilMs);
  }

  of(subject: string): bigint {
    return this.#revisions.get(subject) ?? 0n;
  }

  apply(subject: string, revision: bigint): void {
    if (this.of(subject) >= revision) return;
    this.#revisions.delete(subject);
    this.#revisions.set(subject, revision);
    const oldest = this.#revisions.keys().next().value;
    if (this.#revisions.size > SUBJECTS_MAX && oldest !== undefined) this.#revisions.delete(oldest);
    this.#save();
  }

  hasVerdict(id: string): boolean {
    return this.#verdicts.has(id);
  }

  addVerdict(id: string, untilMs: number, nowMs: number): void {
    for (const [known, until] of this.#verdicts) if (until < nowMs) this.#verdicts.delete(known);
    this.#verdicts.set(id, untilMs);
    this.#save();
  }

  /** Written aside and renamed, so that a power cut leaves the old or the new state. */
  #save(): void {
    const state: State = {
      revisions: Object.fromEntries([...this.#revisions].map(([subject, revision]) => [subject, String(revision)])),
      verdicts: Object.fromEntries(this.#verdicts),
    };
    mkdirSync(dirname(this.#file), { recursive: true, mode: 0o700 });
    writeFileSync(`${this.#file}.new`, JSON.stringify(state), { mode: 0o600 });
    renameSync(`${this.#file}.new`, this.#file);
  }
}
