#!/usr/bin/env bash
# Everything that can be checked without running: generated code, format, lint, layering, types, contracts.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/node_modules/.bin:$PATH"
say() { printf 'check: %s\n' "$*"; }

say "generated code"
before="$(find proto/gen -type f -print0 | sort -z | xargs -0 sha256sum)"
tools/codegen/generate.sh
after="$(find proto/gen -type f -print0 | sort -z | xargs -0 sha256sum)"
if [ "$before" != "$after" ]; then
  say "proto/gen was not what proto/ generates; it is now: commit it"
  exit 1
fi
say "format, lint, layering"
biome check .
say "types"
tsc -p .
say "contracts"
buf format proto --diff --exit-code
buf lint
buf breaking proto --against proto/baseline.binpb
say "sizes and places"
# shellcheck disable=SC2046
if grep -nE 'from "(\.\./)+(core|lib|proto)/' -r agent services tools core lib test --include=*.ts; then
  say "import by #core, #lib and #gen, not by way of parent folders"
  exit 1
fi
