#!/usr/bin/env bash
# compose.sh ARGS…: `compose ARGS…` for this team, with the engine that is there: Docker if its daemon answers, else
# podman with podman-compose. CONTAINER_ENGINE=docker or podman chooses one.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/engine.sh
. "${here}/../engine.sh"
# Paths in the file are meant from its folder, and .env is looked for there: podman-compose goes by where it is started.
cd "${here}"
files=(-f compose.yaml)
[ "${engine:?}" = docker ] || files+=(-f podman.yaml)
compose "${files[@]}" "$@"
