#!/bin/sh
# Installs a program for the tests from Debian's packages: install-package.sh PROGRAM PACKAGE...
set -eu
program=$1
shift

fail() {
    echo "$1: install $program so that \`$program\` is found, then run this again" >&2
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

echo "installing $program ..."
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq || fail "apt-get update failed"
$as_root apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
    fail "apt-get could not install $*"
if [ "$program" = sshd ] && [ -d /run/systemd/system ]; then
    $as_root systemctl disable --now ssh.service ssh.socket # the tests start one of their own
fi
if [ "$program" = promtool ] && [ -d /run/systemd/system ]; then
    $as_root systemctl disable --now prometheus.service # only its tool is wanted
fi
PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || fail "apt-get has installed no $program"
