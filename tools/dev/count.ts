/** Prints the closing line of a test run: `N passed, N failed`. Failed checks count as one failure. */
import { readFileSync } from "node:fs";

interface Report {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
  readonly numTotalTests: number;
  readonly success: boolean;
}

const [file = "", failedChecks = "0"] = process.argv.slice(2);
const report = JSON.parse(readFileSync(file, "utf8")) as Report;
const hasHiddenFailure = !report.success && report.numFailedTests === 0;
const failed = report.numFailedTests + Number(failedChecks) + (hasHiddenFailure ? 1 : 0);
const skipped = report.numPendingTests > 0 ? `, ${report.numPendingTests} skipped` : "";
process.stdout.write(`${report.numPassedTests} passed, ${failed} failed${skipped}\n`);
process.exitCode = failed > 0 ? 1 : 0;
