/**
 * What a model has not seen yet, by Good–Turing: with Q1 items seen in exactly one of n units, the chance that the
 * next unit shows something new is Q1 ÷ n (Good 1953). The upper end is that of a Poisson count with 95 % confidence,
 * by the exact chi-square bound in Wilson–Hilferty's approximation (error below 1 % for counts of 1 and more).
 */
export interface CompletenessEstimate {
  readonly unseenProbability: number;
  readonly unseenProbabilityUpper: number;
  readonly expectedNewPerDay: number;
  readonly expectedNewPerDayUpper: number;
}

/** A unit is one instance for five minutes. */
export const UNIT_SECONDS = 300;
const UNITS_PER_DAY = 86_400 / UNIT_SECONDS;
/** Two-sided 95 %: the 97.5 % point of the normal distribution. */
const Z = 1.959964;

/** Upper end of the 95 % interval for the mean of a Poisson variable of which `count` was observed. */
export function poissonUpper(count: number): number {
  const degrees = count + 1;
  return degrees * (1 - 1 / (9 * degrees) + Z / (3 * Math.sqrt(degrees))) ** 3;
}

/** The estimate for `singletons` items seen in one unit only out of `units`; undefined while nothing was observed. */
export function estimateCompleteness(units: number, singletons: number): CompletenessEstimate | undefined {
  if (units <= 0) return undefined;
  const probability = Math.min(1, singletons / units);
  const rateUpper = poissonUpper(singletons) / units;
  return {
    unseenProbability: probability,
    unseenProbabilityUpper: Math.min(1, rateUpper),
    expectedNewPerDay: (singletons / units) * UNITS_PER_DAY,
    expectedNewPerDayUpper: rateUpper * UNITS_PER_DAY,
  };
}
