#!/bin/sh
# Measures xmasd on this machine's GPU, without network. `./check.sh --help` lists the options.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# PyTorch's wheels bring the CUDA libraries that onnxruntime's provider loads.
brought=$(python3 -c '
import glob, sys
print(":".join(path for folder in sys.path for path in sorted(glob.glob(folder + "/nvidia/*/lib"))))
' 2>/dev/null) || brought=
if [ -n "$brought" ]; then
  export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$brought"
fi
exec "$here/bin/node" "$here/runner/check.js" "$@"
