# shellcheck shell=bash
# Sourced by the scripts beside and below it: sets `root`, the folder of the project, and `engine` to docker or podman.
# Ends the script with one sentence where neither is there. CONTAINER_ENGINE chooses one.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# deploy/local-images.sh writes this file where podman needs other settings than it came with.
if [ -f "${root}/.containers/containers.conf" ]; then
  export CONTAINERS_CONF="${CONTAINERS_CONF:-${root}/.containers/containers.conf}"
fi
# Only this format keeps the image's own health check.
export BUILDAH_FORMAT=docker

refuse() { echo "$*" >&2; exit 2; }
has_docker() { command -v docker > /dev/null && docker info > /dev/null 2>&1; }
has_podman() { command -v podman > /dev/null; }

engine=${CONTAINER_ENGINE:-}
case "${engine}" in
  docker) has_docker || refuse "CONTAINER_ENGINE is docker, and no Docker daemon answers; start it, or leave CONTAINER_ENGINE out." ;;
  podman) has_podman || refuse "CONTAINER_ENGINE is podman, which is not installed; install it, or leave CONTAINER_ENGINE out." ;;
  "")
    if has_docker; then engine=docker
    elif has_podman; then engine=podman
    else refuse "No container engine answers: start Docker, or install podman and podman-compose."
    fi
    ;;
  *) refuse "CONTAINER_ENGINE is '${engine}'; allowed is docker or podman." ;;
esac

# compose ARGS…: the compose program of that engine.
compose() {
  local candidate
  if [ "${engine}" = docker ]; then
    docker compose version > /dev/null 2>&1 || refuse "Docker has no compose plugin here; install it (package docker-compose-plugin)."
    docker compose "$@"
    return
  fi
  for candidate in "${PODMAN_COMPOSE:-}" podman-compose "${root}/.venv-containers/bin/podman-compose"; do
    if [ -n "${candidate}" ] && command -v "${candidate}" > /dev/null; then
      "${candidate}" "$@"
      return
    fi
  done
  refuse "podman needs podman-compose to run a team; install it (pip install podman-compose)."
}
