#!/usr/bin/env bash
# compose.sh ARGS…: `compose ARGS…` for this team, with the engine that is there: Docker if its daemon answers, else
# podman with podman-compose. CONTAINER_ENGINE=docker or podman chooses one. GOALS=1, here or in .env, makes it a team that
# can be given goals.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/engine.sh
. "${here}/../engine.sh"
# Paths in the file are meant from its folder, and .env is looked for there: podman-compose goes by where it is started.
cd "${here}"
files=(-f compose.yaml)
[ "${engine:?}" = docker ] || files+=(-f podman.yaml)
[ "${GOALS:-$(sed -n 's/^GOALS=//p' .env 2> /dev/null | tail -n 1)}" != 1 ] || files+=(-f goals.yaml)
compose "${files[@]}" "$@"
