#!/usr/bin/env bash
# npm start: sets up what is missing and starts everything on this machine; `npm start -- --demo` tells the story.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools/dev/setup.sh
if [ "$(uname -s)" != Linux ] || [ "$(id -u)" != 0 ]; then
  echo "gabion: not root on Linux: the services start, but nothing can be sensed or stopped on this node" >&2
fi
if [ "${1:-}" = "--demo" ]; then
  shift
  exec tools/cli/gabion demo "$@"
fi
exec tools/cli/gabion up "$@"
