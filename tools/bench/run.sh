#!/usr/bin/env bash
# Prints the performance tables. Needs root, a quiet machine, and some minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools/dev/setup.sh
export PATH="$PWD/node_modules/.bin:$PATH"
# programs and mix compare with bpftrace and auditd where they are installed (Debian packages bpftrace and auditd).
for name in exec calls hooks programs mix rates acts product learning models replicas; do node "tools/bench/$name.ts"; done
node --expose-gc --max-old-space-size=16384 tools/bench/rules.ts
