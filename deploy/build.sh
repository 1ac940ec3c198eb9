#!/usr/bin/env bash
# build.sh [worker] [orchestrator]: build the images with the engine that is there; both where none is named.
# They are called WORKER_IMAGE and ORCHESTRATOR_IMAGE (codehornets-ai/worker:latest, codehornets-ai/orchestrator:latest).
# CA_BUNDLE names a file of certificates that the build shall trust beside the usual ones; BASE_IMAGE another base.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/engine.sh
. "${here}/engine.sh"
cd "${root:?}"
version=$(sed -n 's/^VERSION.* = "\(.*\)"$/\1/p' agent_bus/__init__.py)
revision=$(git rev-parse HEAD 2> /dev/null || echo unknown)
ca_bundle=${CA_BUNDLE:-deploy/compose/no-secrets/ca_bundle}
[ -r "${ca_bundle}" ] || { echo "CA_BUNDLE is '${ca_bundle}', which cannot be read; name a file of PEM certificates." >&2; exit 2; }
for target in "${@:-worker}"; do
  case "${target}" in
    worker | orchestrator) ;;
    *) echo "build.sh cannot build '${target}'; allowed is worker or orchestrator." >&2; exit 2 ;;
  esac
done
[ $# -gt 0 ] || set -- worker orchestrator
# A builder in a container of its own keeps what it built to itself unless it is told.
load=()
[ "${engine:?}" != docker ] || load=(--load)
for target in "$@"; do
  case "${target}" in
    worker) image=${WORKER_IMAGE:-codehornets-ai/worker:latest} ;;
    orchestrator) image=${ORCHESTRATOR_IMAGE:-codehornets-ai/orchestrator:latest} ;;
  esac
  echo "Building ${image} with ${engine} …"
  DOCKER_BUILDKIT=1 "${engine}" build "${load[@]}" --target "${target}" --tag "${image}" \
    --build-arg "BASE_IMAGE=${BASE_IMAGE:-docker.io/library/debian:bookworm-slim}" \
    --build-arg "VERSION=${version}" --build-arg "REVISION=${revision}" \
    --secret "id=ca_bundle,src=${ca_bundle}" .
done
