#!/usr/bin/env bash
# Prints the Python that make_parity.py runs on, making its virtual environment where it is missing: once a
# machine, in the cache folder, one for each requirements.txt. 6 GB, about a minute. `python.sh trainers`: the one
# that load_exports.py runs on, which has the packages of trainers.txt before the other's; 500 MB more.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/xmasd"

# venv NAME FILES INSTALL...: the folder of the environment for these files, which INSTALL fills.
venv() {
  local venv="$cache/$1-$(cat $2 | sha256sum | cut -c1-12)"
  if [ ! -e "$venv/complete" ]; then
    mkdir -p "$cache"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir "${@:3}" >&2
    touch "$venv/complete"
  fi
  echo "$venv"
}

parity="$(venv parity "$here/requirements.txt" -r "$here/requirements.txt")"
if [ "${1:-}" = trainers ]; then
  trainers="$(venv trainers "$here/requirements.txt $here/trainers.txt" --no-deps -r "$here/trainers.txt")"
  "$parity/bin/python" -c 'import site; print(site.getsitepackages()[0])' >"$("$trainers/bin/python" -c 'import site; print(site.getsitepackages()[0])')/parity.pth"
  echo "$trainers/bin/python"
else
  echo "$parity/bin/python"
fi
