/**
 * Patterns of rules: `*` matches any run of characters, everything else itself. Matching takes time in proportion to
 * text × pattern at worst, so that no pattern can be made to explode.
 */
export interface Pattern {
  readonly source: string;
  readonly matches: (text: string) => boolean;
}

/** Greedy matching of the pieces between stars: each piece is taken at its first place, the last one at the end. */
function matchPieces(pieces: readonly string[], text: string): boolean {
  const first = pieces[0] as string;
  const last = pieces.at(-1) as string;
  if (text.length < first.length + last.length || !text.startsWith(first) || !text.endsWith(last)) return false;
  let at = first.length;
  const end = text.length - last.length;
  for (const piece of pieces.slice(1, -1)) {
    const found = text.indexOf(piece, at);
    if (found < 0 || found + piece.length > end) return false;
    at = found + piece.length;
  }
  return at <= end;
}

/** Compiles a pattern. With `ignoreCase` letter case does not count. */
export function compilePattern(source: string, { ignoreCase = false } = {}): Pattern {
  const fold = (text: string) => (ignoreCase ? text.toLowerCase() : text);
  const pieces = fold(source).split(/\*+/);
  const matches =
    pieces.length === 1
      ? (text: string) => fold(text) === pieces[0]
      : (text: string) => matchPieces(pieces, fold(text));
  return { source, matches };
}

/** True if the text holds a wildcard. */
export function isPattern(source: string): boolean {
  return source.includes("*");
}

/** True if whatever the second pattern matches, the first does too: its stars take in the other's. */
export function coversPattern(wide: string, narrow: string): boolean {
  return compilePattern(wide).matches(narrow);
}
