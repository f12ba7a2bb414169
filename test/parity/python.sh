#!/usr/bin/env bash
# Prints the Python that make_parity.py runs on, making its virtual environment where it is missing: once a
# machine, in the cache folder, one for each requirements.txt. 6 GB, about a minute.
set -euo pipefail
requirements="$(cd "$(dirname "$0")" && pwd)/requirements.txt"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/xmasd"
venv="$cache/parity-$(sha256sum "$requirements" | cut -c1-12)"
if [ ! -e "$venv/complete" ]; then
  mkdir -p "$cache"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir -r "$requirements" >&2
  touch "$venv/complete"
fi
echo "$venv/bin/python"
