import { I386, X86_64 } from "./tables.ts";

const NATIVE = X86_64.trim().split(/\s+/);
const COMPAT = I386.trim().split(/\s+/);

function index(names: readonly string[]): Map<string, number> {
  return new Map(names.flatMap((name, number) => (name === "-" ? [] : [[name, number] as const])));
}

const nativeNumbers = index(NATIVE);
const compatNumbers = index(COMPAT);

/** Name of a system call; `syscall_N` for a number that the table does not have. */
export function syscallName(number: number, isCompat: boolean): string {
  const name = (isCompat ? COMPAT : NATIVE)[number];
  return name === undefined || name === "-" ? `syscall_${number}` : name;
}

/** Number of a system call; undefined where the table has none of that name. */
export function syscallNumber(name: string, isCompat: boolean): number | undefined {
  const unnamed = /^syscall_(\d+)$/.exec(name)?.[1];
  if (unnamed !== undefined) return Number(unnamed);
  return (isCompat ? compatNumbers : nativeNumbers).get(name);
}
