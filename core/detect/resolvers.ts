import { isIP } from "node:net";

/** More than any library asks; the C libraries take three. */
const RESOLVERS_MAX = 32;

/** Addresses of the resolvers that a container is given, from the text of its resolv.conf(5); none where it names none. */
export function resolversOf(text: string): string[] {
  const named = text.split("\n").flatMap((line) => {
    const address = /^\s*nameserver\s+([^\s%#;]+)/.exec(line)?.[1] ?? "";
    return isIP(address) === 0 ? [] : [address];
  });
  return [...new Set(named)].slice(0, RESOLVERS_MAX);
}
