#!/usr/bin/env bash
# Sets up all that Gabion needs on this machine, once, and says what it installs. Later runs only look and take seconds.
#   setup.sh          what running needs
#   setup.sh --tests  what the tests need besides
set -euo pipefail
cd "$(dirname "$0")/../.."
root="$PWD"
say() { printf 'setup: %s\n' "$*" >&2; }

# Debian packages: what each is for.
packages=(clang libbpf-dev runc nats-server make gcc libc6-dev)
[ "${1:-}" = "--tests" ] && packages+=(bpftool iptables nmap)

missing_packages() {
  local package
  for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || printf '%s ' "$package"
  done
}

install_packages() {
  local missing
  if ! command -v dpkg-query >/dev/null; then
    say "this is not Debian: install clang, libbpf (with headers), runc, nats-server, make and a C compiler by hand;"
    say "without them the services still work, the sensor does not"
    return 0
  fi
  missing="$(missing_packages)"
  [ -z "$missing" ] && return 0
  if [ "$(id -u)" != 0 ]; then
    say "not root: cannot install $missing"
    say "the command line and the checks still work; what needs the sensor, runc or NATS does not"
    return 0
  fi
  say "installing Debian packages: $missing"
  apt-get update -qq >&2
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

# The Node.js that everything runs on, whatever the system's is. npm runs on it too: under an older one it would take
# older versions of packages without saying so.
install_node() {
  local wanted have
  wanted="$(sed -n 's/.*"node": "\([0-9.]*\)".*/\1/p' package.json | tail -n 1)"
  have="$(.cache/node/node_modules/.bin/node --version 2>/dev/null || true)"
  if [ "$have" != "v$wanted" ]; then
    command -v npm >/dev/null || { say "npm is missing: install Debian's nodejs and npm"; exit 2; }
    say "installing Node.js $wanted into .cache/node"
    mkdir -p .cache/node
    npm install --prefix .cache/node --no-save --no-package-lock --engine-strict=false --strict-allow-scripts=false \
      --loglevel=error "node@$wanted" >/dev/null
  fi
  export PATH="$root/.cache/node/node_modules/.bin:$PATH"
}

install_modules() {
  if [ node_modules/.package-lock.json -nt package-lock.json ] && [ -x node_modules/.bin/node ]; then return 0; fi
  say "installing npm packages as locked"
  npm ci --loglevel=error >/dev/null
  touch node_modules/.package-lock.json
}

# Busybox for the demo's and the tests' containers: unpacked here, so that the system's own stays as it is.
fetch_busybox() {
  [ -x .cache/busybox/bin/busybox ] && return 0
  command -v dpkg-deb >/dev/null || { say "no dpkg: the demo needs a static busybox at .cache/busybox/bin/busybox"; return 0; }
  say "unpacking Debian's busybox-static into .cache/busybox"
  mkdir -p .cache/busybox
  (cd .cache/busybox && (apt-get download -qq busybox-static || { apt-get update -qq && apt-get download -qq busybox-static; }) \
    >/dev/null 2>&1 && dpkg-deb -x busybox-static_*.deb . && rm busybox-static_*.deb) \
    || say "busybox-static could not be fetched: the demo will not run"
}

build_sensor() {
  command -v clang >/dev/null && [ -e /usr/include/bpf/libbpf.h ] || { say "no clang or libbpf: the sensor is not built"; return 0; }
  make -s -C agent/sensor >/dev/null
}

build_mongo_server() {
  [ -n "${GABION_TEST_MONGODB_URL:-}" ] || command -v mongod >/dev/null && return 0
  [ .cache/mongo-server/mongo-server -nt test/mongo-server/main.go ] && return 0
  command -v go >/dev/null || { say "no Go: the MongoDB tests need mongod or GABION_TEST_MONGODB_URL"; return 0; }
  say "building a MongoDB-compatible server for the tests (FerretDB 1.24.2 on SQLite)"
  mkdir -p .cache/mongo-server
  (cd test/mongo-server && go build -trimpath -ldflags '-s -w' -o "$root/.cache/mongo-server/mongo-server" .) \
    || say "it could not be built: the MongoDB tests will skip"
}

install_packages
install_node
install_modules
fetch_busybox
build_sensor
[ "${1:-}" = "--tests" ] && build_mongo_server
exit 0
