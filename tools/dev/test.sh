#!/usr/bin/env bash
# npm test: sets up what is missing, checks, and runs all tests. `npm test -- core` runs the tests whose path has `core`.
# The last line is the count. GABION_REQUIRE=all turns what would be skipped into failures.
set -uo pipefail
cd "$(dirname "$0")/../.."
tools/dev/setup.sh --tests || exit 2
export PATH="$PWD/node_modules/.bin:$PATH"
checks=0
[ "$#" -gt 0 ] || tools/dev/check.sh || checks=1
report="$(mktemp)"
trap 'rm -f "$report"' EXIT
node node_modules/vitest/vitest.mjs run --reporter=default --reporter=json --outputFile.json="$report" "$@"
tests=$?
[ "$checks" = 0 ] || echo "the checks failed: see above"
node tools/dev/count.ts "$report" "$checks" || exit 1
[ "$tests" = 0 ] && [ "$checks" = 0 ]
