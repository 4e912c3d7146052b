/** The name of an enum's value as people read it: `dry-run`. A value that has no name is shown as its number. */
export function enumText(values: Readonly<Record<string, number>>, value: number): string {
  const name = Object.entries(values).find(([, number]) => number === value)?.[0];
  return name === undefined ? String(value) : name.toLowerCase().replaceAll("_", "-");
}
