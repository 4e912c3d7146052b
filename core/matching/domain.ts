/** A pattern of domains: a name, or `*.name` for everything below it. Lower case, without the last dot. */
export interface DomainPattern {
  readonly source: string;
  readonly name: string;
  readonly isSuffix: boolean;
}

const LABEL = /^[^.\s]{1,63}$/u;

/** Reads a pattern; undefined where it is neither a name nor `*.` and a name. */
export function parseDomainPattern(source: string): DomainPattern | undefined {
  const isSuffix = source.startsWith("*.");
  const name = (isSuffix ? source.slice(2) : source).toLowerCase().replace(/\.$/, "");
  const isName = name.length <= 253 && name.split(".").every((label) => LABEL.test(label)) && !name.includes("*");
  return isName ? { source, name, isSuffix } : undefined;
}

/** True if a name in lower case is the pattern's, or lies below it. */
export function matchesDomain({ name, isSuffix }: DomainPattern, domain: string): boolean {
  return isSuffix ? domain.endsWith(`.${name}`) : domain === name;
}

/** Finds, of many patterns, the first one in their order that names a domain. */
export interface DomainIndex {
  readonly find: (domain: string) => DomainPattern | undefined;
}

/** One look-up for the name, and one for each name above it. */
export function compileDomainIndex(patterns: readonly DomainPattern[]): DomainIndex {
  const exact = new Map<string, number>();
  const above = new Map<string, number>();
  patterns.forEach(({ name, isSuffix }, index) => {
    const known = isSuffix ? above : exact;
    if (!known.has(name)) known.set(name, index);
  });
  return {
    find(domain) {
      let first = exact.get(domain) ?? patterns.length;
      for (let dot = domain.indexOf("."); above.size > 0 && dot >= 0; dot = domain.indexOf(".", dot + 1)) {
        const place = above.get(domain.slice(dot + 1));
        if (place !== undefined && place < first) first = place;
      }
      return patterns[first];
    },
  };
}
