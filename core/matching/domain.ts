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
