import { compilePattern, isPattern, type Pattern } from "./pattern.ts";

/** Finds, of many patterns, the first one in their order that matches a text. */
export interface TextIndex {
  /** Place of the first pattern that matches, or -1. */
  readonly find: (text: string) => number;
  /**
   * Place of a text that begins with a folder and the slash behind it, up to its first star, or of a pattern that matches
   * those; -1 for none.
   */
  readonly findBelow: (folder: string) => number;
}

interface Placed {
  readonly index: number;
  readonly pattern: Pattern;
}

/** Patterns by the fixed text that they begin or end with; of each length that occurs one look-up is made. */
class FixedEnds {
  readonly #byText = new Map<string, Placed[]>();
  readonly #lengths = new Set<number>();
  readonly #cut: (text: string, length: number) => string;

  constructor(cut: (text: string, length: number) => string) {
    this.#cut = cut;
  }

  add(fixed: string, placed: Placed): void {
    const known = this.#byText.get(fixed) ?? [];
    this.#byText.set(fixed, known);
    known.push(placed);
    this.#lengths.add(fixed.length);
  }

  /** The first pattern that matches and comes before `below`, or `below`. */
  find(text: string, below: number): number {
    let first = below;
    for (const length of this.#lengths) {
      if (length > text.length) continue;
      for (const { index, pattern } of this.#byText.get(this.#cut(text, length)) ?? []) {
        if (index >= first) break;
        if (pattern.matches(text)) first = index;
      }
    }
    return first;
  }
}

/** What texts begin with, in order, so that the first one that a beginning leads to is found by halves. */
class Beginnings {
  readonly #sorted: readonly { readonly text: string; readonly index: number }[];

  constructor(sources: readonly string[]) {
    this.#sorted = sources
      .map((source, index) => ({ text: isPattern(source) ? source.slice(0, source.indexOf("*")) : source, index }))
      .sort((a, b) => (a.text < b.text ? -1 : 1));
  }

  find(beginning: string): number {
    let low = 0;
    let high = this.#sorted.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#sorted[middle]?.text ?? "") < beginning) low = middle + 1;
      else high = middle;
    }
    const found = this.#sorted[low];
    return found?.text.startsWith(beginning) ? found.index : -1;
  }
}

/** The last of so many patterns is found as fast as the first, for patterns that begin or end with something fixed. */
export function compileTextIndex(sources: readonly string[]): TextIndex {
  const exact = new Map<string, number>();
  const byBeginning = new FixedEnds((text, length) => text.slice(0, length));
  const byEnd = new FixedEnds((text, length) => text.slice(text.length - length));
  sources.forEach((source, index) => {
    if (!isPattern(source)) {
      if (!exact.has(source)) exact.set(source, index);
      return;
    }
    const beginning = source.slice(0, source.indexOf("*"));
    const end = source.slice(source.lastIndexOf("*") + 1);
    const placed = { index, pattern: compilePattern(source) };
    // The longer one leaves fewer others to be tried.
    if (beginning.length >= end.length) byBeginning.add(beginning, placed);
    else byEnd.add(end, placed);
  });
  let beginnings: Beginnings | undefined;
  const find = (text: string) => {
    const bound = exact.get(text) ?? sources.length;
    const found = byEnd.find(text, byBeginning.find(text, bound));
    return found === sources.length ? -1 : found;
  };
  return {
    find,
    findBelow(folder) {
      const inside = folder === "/" ? folder : `${folder}/`;
      beginnings ??= new Beginnings(sources);
      return firstPlace([beginnings.find(inside), find(inside)]);
    },
  };
}

/** Of places found, the first; -1 where none was. */
export function firstPlace(places: readonly number[]): number {
  let first = -1;
  for (const place of places) if (place >= 0 && (first < 0 || place < first)) first = place;
  return first;
}
