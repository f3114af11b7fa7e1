#!/bin/sh
# Installs Debian's chromium, and a font for it: what `make test` shows the status page to.
set -eu

fail() {
    echo "$1: install Chromium so that \`chromium\` is found, then run this again" >&2
    exit 1
}

command -v apt-get >/dev/null || fail "There is no apt-get here"
if [ "$(id -u)" -eq 0 ]; then
    as_root=""
elif command -v sudo >/dev/null; then
    as_root="sudo"
else
    fail "Only root can install packages, and there is no sudo"
fi

echo "installing chromium ..."
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq || fail "apt-get update failed"
$as_root apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null ||
    fail "apt-get could not install chromium"
command -v chromium >/dev/null || fail "apt-get has installed no chromium"
