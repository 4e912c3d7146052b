#!/usr/bin/env bash
# Generates proto/gen from proto/. The result is committed; the check compares it.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/node_modules/.bin:$PATH"
node tools/codegen/print-validate-proto.ts
buf generate
