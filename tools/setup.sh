#!/usr/bin/env bash
# Gets this machine ready for the commands of the Makefile. It installs only what is missing, says what it installs, and
# where it may not, says the one line to type.
#
#   tools/setup.sh root TARGET       refuse unless run by root
#   tools/setup.sh packages demo     Debian packages of tools/debian-packages.txt: section [demo]; "test" and "bench": [demo]
#                                    and that one; "vm": all but [bench]
#   tools/setup.sh venv FOLDER EXTRA a virtual environment with this project in it; EXTRA is empty or [dev]
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    printf 'stillframe: %s\n' "$1" >&2
    [ -z "${2:-}" ] || printf '  %s\n' "$2" >&2
    exit 20
}

# Packages that dpkg does not know as installed, out of the names given.
missing_of() {
    local name
    for name in "$@"; do
        [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || echo "$name"
    done
}

install_packages() {
    local missing
    command -v dpkg-query >/dev/null || return 0  # no Debian: whatever is missing, the demo and the tests name it
    mapfile -t missing < <(missing_of "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    local line="apt-get install -y --no-install-recommends ${missing[*]}"
    [ "$(id -u)" = 0 ] || fail "Debian packages are missing: ${missing[*]}" "Type: sudo $line"
    command -v apt-get >/dev/null || fail "Debian packages are missing: ${missing[*]}" "Install them, then run it again."
    echo "Installing Debian packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    $line >/dev/null 2>&1 || { apt-get update -qq && $line >/dev/null; } ||
        fail "the Debian packages could not be installed" "Type: apt-get update && $line"
}

packages() {
    local found
    mapfile -t found < <(awk -v only="$1" '/^\[/ { section = $1; next } /^#/ || NF == 0 { next }
        (only == "vm" && section != "[bench]") || section == "[demo]" || section == "[" only "]" { print $1 }' tools/debian-packages.txt)
    [ ${#found[@]} -gt 0 ] || fail "tools/debian-packages.txt has no section [$1]"
    install_packages "${found[@]}"
}

# A Python of at least 3.11; PYTHON overrides the choice.
find_python() {
    local name
    for name in ${PYTHON:-python3 python3.11 python3.12 python3.13 python3.14}; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return 0
        fi
    done
    fail "Python 3.11 or newer is needed" "Install it, or name it: make PYTHON=/path/to/python3.11"
}

venv() {
    local folder=$1 extra=${2:-} python package
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        command -v dpkg-query >/dev/null || fail "$python has no venv module" "Install its package for venv."
        install_packages "$package"
    fi
    [ -x "$folder/bin/python" ] && "$folder/bin/python" -m pip --version >/dev/null 2>&1 || {
        rm -rf "$folder"
        "$python" -m venv "$folder"
    }
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".$extra" ||
        fail "pip could not install the project" "Is there a way to the package index? The lines above say why."
}

case "${1:-}" in
    root) [ "$(id -u)" = 0 ] || fail "'make $2' makes loop devices and mounts, which only root may" "Type: sudo make $2" ;;
    packages) packages "$2" ;;
    venv) venv "$2" "${3:-}" ;;
    *) fail "usage: tools/setup.sh root|packages|venv ..." ;;
esac
