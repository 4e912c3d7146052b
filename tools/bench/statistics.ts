/** The value below which a share of the sorted samples lies. */
export function percentile(samples: readonly number[], share: number): number {
  const sorted = samples.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}

export function mean(samples: readonly number[]): number {
  return samples.reduce((sum, x) => sum + x, 0) / samples.length;
}

/** Half of the 95 % interval of the mean, by the normal approximation. */
export function halfInterval(samples: readonly number[]): number {
  const center = mean(samples);
  const variance = samples.reduce((sum, x) => sum + (x - center) ** 2, 0) / Math.max(1, samples.length - 1);
  return 1.96 * Math.sqrt(variance / samples.length);
}

/**
 * Mean without the tenth at either end, and half of its 95 % interval by the winsorised variance (Yuen): what else happens
 * on a shared machine makes some samples useless.
 */
export function trimmedMean(samples: readonly number[]): { readonly center: number; readonly half: number } {
  const sorted = samples.toSorted((a, b) => a - b);
  const cut = Math.floor(sorted.length / 10);
  const kept = sorted.slice(cut, sorted.length - cut);
  const bounds = [kept[0] ?? Number.NaN, kept.at(-1) ?? Number.NaN] as const;
  const winsorised = sorted.map((x) => Math.min(Math.max(x, bounds[0]), bounds[1]));
  return { center: mean(kept), half: (halfInterval(winsorised) * sorted.length) / kept.length };
}

/** Writes a table with a title to standard output. */
export function printTable(title: string, rows: readonly (readonly string[])[]): void {
  const widths = (rows[0] ?? []).map((_, at) => Math.max(...rows.map((row) => (row[at] ?? "").length)));
  const lines = rows.map((row) =>
    row
      .map((cell, at) => cell.padEnd(widths[at] ?? 0))
      .join("  ")
      .trimEnd(),
  );
  process.stdout.write(`${title}\n${lines.map((line) => `  ${line}`).join("\n")}\n\n`);
}
