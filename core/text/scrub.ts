/**
 * Takes out of a command line what looks like a secret, before it leaves the node. Only the value goes, so that the
 * command stays recognisable.
 */
const MASK = "********";
const SECRET_NAME = "pass(?:word|wd|phrase)?|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credentials?|auth";
const WITH_VALUE = new RegExp(`^(-{0,2}[\\w.-]*(?:${SECRET_NAME})[\\w.-]*[=:])(.+)$`, "is");
const ALONE = new RegExp(`^-{1,2}[\\w.-]*(?:${SECRET_NAME})[\\w.-]*$`, "i");
const IN_URL = /\b([a-z][a-z0-9+.-]*:\/\/[^\s:/@]*:)([^\s/@]+)(@)/gi;
const HEADER = /\b((?:authorization|cookie|x-api-key)\s*:\s*(?:(?:bearer|basic|token)\s+)?)(\S+)/gi;
/** Keys that tell themselves by their form: AWS, GitHub, Slack, Google, JSON web tokens, PEM bodies. */
const BY_FORM =
  /\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAIza[0-9A-Za-z_-]{35}\b|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*/g;

function scrubOne(argument: string): string {
  const withoutHeader = argument.replace(HEADER, `$1${MASK}`);
  const isHeader = withoutHeader !== argument;
  const withoutValue = isHeader ? withoutHeader : argument.replace(WITH_VALUE, (_, name: string) => `${name}${MASK}`);
  return withoutValue.replace(IN_URL, `$1${MASK}$3`).replace(BY_FORM, MASK);
}

/** Arguments with secrets replaced by a mask. The value after a bare option such as `--password` is masked too. */
export function scrubArguments(args: readonly string[]): string[] {
  let isValueSecret = false;
  return args.map((argument) => {
    const isSecret = isValueSecret && !argument.startsWith("-");
    isValueSecret = ALONE.test(argument);
    return isSecret ? MASK : scrubOne(argument);
  });
}
