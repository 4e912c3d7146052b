/** Docker Hub under its own name and its old one. */
const DOCKER_HUB = /^(index\.)?docker\.io$/i;

/**
 * Image names in canonical form, as the distribution reference grammar has it: a first part with a dot, a colon or
 * `localhost` is a registry, otherwise `docker.io` is meant; there a name without a slash is in `library`. A missing
 * tag is `latest`, unless a digest is given.
 */
export function canonicalImage(name: string): string {
  const [withTag = "", digest] = splitOnce(name, "@");
  const [head, ...rest] = withTag.split("/");
  const hasRegistry = rest.length > 0 && (/[.:]/.test(head as string) || head === "localhost");
  const registry = hasRegistry && !DOCKER_HUB.test(head as string) ? (head as string) : "docker.io";
  const path = hasRegistry ? rest.join("/") : withTag;
  const repository = registry === "docker.io" && !path.includes("/") ? `library/${path}` : path;
  const hasTag = repository.lastIndexOf(":") > repository.lastIndexOf("/");
  const tagged = hasTag || digest !== undefined ? repository : `${repository}:latest`;
  return `${registry}/${tagged}${digest === undefined ? "" : `@${digest}`}`;
}

/** A pattern with the registry and `library/` that it leaves out; its tag is left as it stands. */
export function canonicalPrefix(pattern: string): string {
  const [head = "", ...rest] = pattern.split("/");
  const hasRegistry = rest.length > 0 && (/[.:]/.test(head) || head === "localhost" || head.includes("*"));
  if (hasRegistry && DOCKER_HUB.test(head)) {
    const path = rest.join("/");
    return `docker.io/${rest.length > 1 || path === "*" ? path : `library/${path}`}`;
  }
  if (hasRegistry) return pattern;
  return rest.length > 0 ? `docker.io/${pattern}` : `docker.io/library/${pattern}`;
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + separator.length)];
}
