#!/usr/bin/env bash
# Builds the addon of the tensorflow engine: @tensorflow/tfjs-node (with --cuda: tfjs-node-gpu) linked
# to the libtensorflow inside the PyPI wheel. The stock package downloads TensorFlow 2.9.
#
#   npm run build:tensorflow               for the CPU: 270 MB to download, 0.8 GB on disk
#   npm run build:tensorflow -- --cuda     for CUDA 12: 2.8 GB to download, 4.5 GB on disk
#
# Everything is pinned: npm packages by package-lock.json beside this file, wheels by wheels-*.txt. Both
# builds can coexist in node_modules here, where the project's own `npm ci` does not remove them. Wheels
# are kept in $TENSORFLOW_WHEELS (default: ~/.cache/xmasd-tensorflow).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
  printf 'build:tensorflow: %s\n' "$1" >&2
  [ $# -lt 2 ] || printf '→ %s\n' "$2" >&2
  exit "${3:-1}"
}
step() { printf '== %s\n' "$*"; }

case "${1:-}" in
  '') variant=cpu package=@tensorflow/tfjs-node ;;
  --cuda) variant=cuda package=@tensorflow/tfjs-node-gpu ;;
  *) fail "unknown argument $1" 'npm run build:tensorflow, or npm run build:tensorflow -- --cuda' 2 ;;
esac
addon=node_modules/$package
binary=$addon/lib/napi-v8/tfjs_binding.node
core=../../node_modules/@tensorflow/tfjs-core/package.json
# Each version of the list has its own folder.
wheels=${TENSORFLOW_WHEELS:-${XDG_CACHE_HOME:-$HOME/.cache}/xmasd-tensorflow}/$(sha256sum <"wheels-$variant.txt" | cut -c1-12)

check_machine() {
  local tool
  [ "$(uname -sm)" = 'Linux x86_64' ] || fail "the addon is built for Linux x86_64, not $(uname -sm)" \
    'proxy.engine onnx runs here; tensorflow runs on WebAssembly without the addon'
  for tool in python3 g++ npm; do
    command -v "$tool" >/dev/null || fail "$tool is missing" "on Debian: apt-get install python3 python3-pip g++"
  done
  python3 -m pip --version >/dev/null 2>&1 || fail 'python3 has no pip' 'on Debian: apt-get install python3-pip'
  [ -f "$core" ] || fail "the project's node_modules are missing" 'npm ci, in the project folder, first'
}

# The build records its inputs: a changed script, lock file or wheel list builds again.
stamp=$(cat build.sh check.mjs package-lock.json "wheels-$variant.txt" "$core" 2>/dev/null | sha256sum)
if [ -f "$binary" ] && [ "$(cat "$addon/.built" 2>/dev/null)" = "$stamp" ]; then
  printf 'already built: %s\n' "$(pwd)/$binary"
  exit 0
fi
check_machine

install_packages() {
  local lock
  lock=$(sha256sum <package-lock.json)
  [ "$(cat node_modules/.lock 2>/dev/null)" = "$lock" ] && return
  npm ci --ignore-scripts --no-audit --no-fund
  # A process must have one tfjs-core: the project's, which Node finds in a parent folder.
  local own=node_modules/@tensorflow/tfjs-core
  grep -q "$(grep '"version"' $own/package.json)" "$core" ||
    fail "the project's tfjs-core is of another version than the addon's" 'npm ci, in the project folder'
  rm -rf $own node_modules/@tensorflow/tfjs-backend-cpu
  printf '%s\n' "$lock" >node_modules/.lock
}

# Wheels of Python 3.11, whatever Python runs here: only libraries and headers are used. pip checks the sums.
fetch_wheels() {
  mkdir -p "$wheels"
  python3 -m pip download --quiet --no-cache-dir --no-deps --only-binary=:all: --require-hashes \
    --implementation cp --python-version 3.11 --abi cp311 --abi none \
    --platform manylinux_2_27_x86_64 --platform manylinux2014_x86_64 --platform manylinux1_x86_64 \
    --dest "$wheels" --requirement "wheels-$variant.txt"
}

# deps/lib and deps/include, where the addon looks; deps/nvidia, where libtensorflow's rpath looks.
unpack_wheels() {
  rm -rf "$addon/deps"
  python3 - "$addon/deps" "$wheels"/*.whl <<'PY'
import os, re, shutil, sys, zipfile

PLACES = [
    (r'tensorflow/(libtensorflow_(?:cc|framework)\.so\.2)', r'lib/\1'),
    (r'tensorflow/include/((?:tensorflow/c|tensorflow/core/platform|tsl/platform|xla/tsl)/.*\.h)', r'include/\1'),
    (r'(nvidia/[^/]+/lib/.*\.so[.\d]*)', r'\1'),
]
deps, *wheels = sys.argv[1:]
for wheel in wheels:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            match = next((m.expand(to) for m, to in ((re.fullmatch(p, name), to) for p, to in PLACES) if m), None)
            if match is None:
                continue
            path = os.path.join(deps, match)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with archive.open(name) as source, open(path, 'wb') as target:
                shutil.copyfileobj(source, target, 1 << 22)
PY
  ln -s libtensorflow_cc.so.2 "$addon/deps/lib/libtensorflow.so"
  ln -s libtensorflow_framework.so.2 "$addon/deps/lib/libtensorflow_framework.so"
}

# replace FILE FROM TO: FROM (a basic regular expression) must occur, or TO must be there already.
replace() {
  grep -q "$2" "$1" || grep -qF "$3" "$1" || fail "$1 holds no $2" 'report it with the version of tfjs-node'
  sed -i "s/$2/$3/g" "$1"
}

patch_sources() {
  # A global set of attribute names, written without a lock, is a race between worker threads.
  replace "$addon/binding/tfjs_backend.cc" '^static std::set<std::string> ATTR_NAME_SET;' \
    'static thread_local std::set<std::string> ATTR_NAME_SET;'
  # Node 23 removed these from util.
  local file
  for file in nodejs_kernel_backend.js kernels/TopK.js; do
    replace "$addon/dist/$file" '(0, util_1\.isNullOrUndefined)(' '(null == '
  done
  replace "$addon/dist/nodejs_kernel_backend.js" '(0, util_1\.isArray)(' 'Array.isArray('
}

# nodelete: Node unloads an addon with its last worker thread, and TensorFlow's own threads would crash.
compile() {
  mkdir -p "$(dirname "$binary")"
  g++ -std=c++17 -O2 -fPIC -shared -DNAPI_VERSION=8 -DBUILDING_NODE_EXTENSION \
    -Inode_modules/node-api-headers/include -I"$addon/deps/include" -I"$addon" \
    "$addon/binding/tfjs_backend.cc" "$addon/binding/tfjs_binding.cc" \
    -L"$addon/deps/lib" -ltensorflow -ltensorflow_framework -Wl,-z,nodelete \
    -Wl,-rpath,'$ORIGIN/../../deps/lib' -o "$binary"
}

step "npm packages ($package)"
install_packages
step "wheels, into $wheels"
fetch_wheels
step 'unpack'
unpack_wheels
step 'compile'
patch_sources
compile
step 'check'
node check.mjs "$package"
printf '%s\n' "$stamp" >"$addon/.built"
