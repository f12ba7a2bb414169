#!/bin/sh
# Checks the parts beside this script and unpacks them into DIR/xmasd-gpu.
#
#   ./join.sh [DIR]     default: the folder of the parts
set -eu
into=$(cd "${1:-$(dirname "$0")}" && pwd)
cd "$(dirname "$0")"
sha256sum --check --quiet SHA256SUMS || {
  echo 'a part is missing or damaged: carry it again' >&2
  exit 1
}
cut -d ' ' -f 3 SHA256SUMS | xargs cat | tar -xzf - -C "$into"
echo "unpacked; next: $into/xmasd-gpu/check.sh"
