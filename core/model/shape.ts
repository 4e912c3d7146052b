/**
 * What of a name varies by its making: numbers, dates, hashes, UUIDs, the random end of a temporary name. Two names of
 * one shape were made by the same rule. Literal parts are kept, so that `req-1` and `job-1` are not one family.
 */
export interface Shape {
  /** The name with `?` for each part that varies; `??` for two hexadecimal digits alone. */
  readonly pattern: string;
  /** What varies, for a person: `a number`, `a hash` … */
  readonly what: string;
  /** True for two hexadecimal digits alone, as folders of content-addressed stores are called: weak by itself. */
  readonly isFanOut: boolean;
}

const UUID = /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/gi;
const DATE = /\d{4}[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])([-_.T]?\d{2}[-_.:]?\d{2}([-_.:]?\d{2})?)?/g;
const HASH = /(?<![0-9a-z])(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}(?![0-9a-z])/gi;
/** Letters and digits in turns, or upper and lower case: what mktemp(3) and its like put at the end. */
const RANDOM = /(?<![0-9A-Za-z])[0-9A-Za-z]{6,}(?![0-9A-Za-z])/g;
const NUMBER = /\d+/g;
const FAN_OUT = /^(?=.*\d)[0-9a-f]{2}$|^[a-f]{2}$/;
/** Changes of kind (lower case, upper case, digit) within a text from which on it counts as random, with digits or without. */
const TURNS_MIN = { withDigits: 3, ofLetters: 5 };
/** Of three letters at most one is upper case in words written together. */
const UPPER_SHARE = 1 / 3;

function kindOf(char: string): number {
  if (char >= "0" && char <= "9") return 0;
  return char >= "a" ? 1 : 2;
}

function turns(text: string): number {
  let count = 0;
  for (let i = 1; i < text.length; i += 1) if (kindOf(text[i] as string) !== kindOf(text[i - 1] as string)) count += 1;
  return count;
}

function isRandom(text: string): boolean {
  if (/\d/.test(text)) return turns(text) >= TURNS_MIN.withDigits;
  const upper = text.replaceAll(/[^A-Z]/g, "").length;
  return turns(text) >= TURNS_MIN.ofLetters && upper > text.length * UPPER_SHARE;
}

/** A mark that no name of a file or domain holds, so that replaced parts are not looked at again. */
const HOLE = "\0";

const PARTS: readonly { readonly what: string; readonly replace: (text: string) => string }[] = [
  { what: "a UUID", replace: (text) => text.replace(UUID, HOLE) },
  { what: "a date", replace: (text) => text.replace(DATE, HOLE) },
  { what: "a hash", replace: (text) => text.replace(HASH, HOLE) },
  {
    what: "random characters",
    replace: (text) => text.replace(RANDOM, (part) => (isRandom(part) ? HOLE : part)),
  },
  { what: "a number", replace: (text) => text.replace(NUMBER, HOLE) },
];

/** The shape of one segment of a path or label of a name; undefined where nothing of it varies by its making. */
export function shapeOf(text: string): Shape | undefined {
  if (FAN_OUT.test(text)) return { pattern: "??", what: "two hexadecimal digits", isFanOut: true };
  let rest = text;
  const found: string[] = [];
  for (const { what, replace } of PARTS) {
    const next = replace(rest);
    if (next !== rest) found.push(what);
    rest = next;
  }
  if (found.length === 0) return undefined;
  return { pattern: rest.replaceAll(/\0+/g, "?"), what: found.join(" and "), isFanOut: false };
}
