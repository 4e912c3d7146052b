import { isIP } from "node:net";

/** More than any library asks; the C libraries take three. */
const RESOLVERS_MAX = 32;

/** An address in a form that only the C libraries read, as `10.1` and `010.0.0.53`. */
const OTHER_FORM = /^[0-9][0-9a-fx.]*$/i;

/**
 * Addresses of the resolvers that a container is given, from the text of its resolv.conf(5). None where it names none, or
 * names one that is not understood here: then it is not known who is none of them.
 */
export function resolversOf(text: string): string[] {
  const named = text.split("\n").flatMap((line) => /^\s*nameserver\s+([^\s%#;]+)/.exec(line)?.[1] ?? []);
  if (named.some((address) => isIP(address) === 0 && OTHER_FORM.test(address))) return [];
  return [...new Set(named.filter((address) => isIP(address) !== 0))].slice(0, RESOLVERS_MAX);
}
