#!/usr/bin/env bash
# lint.sh: helm lint with the values of each transport. CHECKS names the environment that holds helm; else the PATH's.
set -euo pipefail
chart=$(cd "$(dirname "${BASH_SOURCE[0]}")/codehornets-ai" && pwd)
helm=${CHECKS:+${CHECKS}/bin/}helm
production=(--values "${chart}/values-production.yaml")

lint() {
  echo "helm lint $*" | sed "s#${chart}/##g"
  "${helm}" lint --strict --quiet "${chart}" "$@"
}

lint
lint --set autoscaling.kind=hpa
lint "${production[@]}"
lint "${production[@]}" --set prometheus.enabled=true
lint "${production[@]}" --set transport=redis-only
lint "${production[@]}" --set transport=redis-only,autoscaling.kind=keda \
  --set worker.storage.home.accessMode=ReadWriteMany,worker.storage.workspace.accessMode=ReadWriteMany
