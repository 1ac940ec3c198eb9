#!/usr/bin/env bash
# backup.sh [FILE]: save the composed team, running or not, into a new file here: queues, results, dead letters, ledger
# and auth homes; WORKSPACES=1 saves the workspaces as well. Default: codehornets-DATE-TIME.tar.gz.
# What Redis holds, where the team has one, is saved beside it as FILE.redis. Both may hold credentials and are for their
# owner's eyes alone.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/compose/stack.sh
. "${here}/stack.sh"

file=${1:-codehornets-$(date +%Y%m%d-%H%M%S).tar.gz}
for wanted in "${file}" "${file}.redis"; do
  if [ -e "${wanted}" ]; then
    echo "${wanted} is there already; name a new file, or remove that one." >&2
    exit 2
  fi
done

# In the container: every home is one --also, whatever the workers are called.
# shellcheck disable=SC2016  # expanded there
saved='set --
for place in /saved/auth-* ${WORKSPACES:+/saved/workspace-*}; do
  [ ! -d "${place}" ] || set -- "$@" --also "${place##*/}=${place}"
done
exec codehornets backup - "$@"'

run() { "${here}/compose.sh" --profile maintenance run --rm -T --user 1000:1000 -e "WORKSPACES=${WORKSPACES:-}" maintenance "$@"; }

# podman-compose tells on its output what it has to make first: nothing of that may get into the archive.
run true > /dev/null
umask 077
staged="${file}.part.$$"
trap 'rm -f "${staged}" "${staged}.redis"' EXIT
not_saved() { echo "Something else than the backup was written; nothing was saved. Try again." >&2; exit 1; }
run "${saved}" > "${staged}"
[ "$(head -c 2 "${staged}" | od -An -tx1 | tr -d ' ')" = 1f8b ] || not_saved

# Redis comes after the ledger: what the ledger says to have been sent is there then. Where it does not run, its volume
# is enough.
if "${engine:?}" volume inspect "${project:?}_redis" > /dev/null 2>&1; then
  running=$(containers | awk '$1 == "redis" && $3 == "running" { print $2 }')
  if [ -n "${running}" ]; then
    in_container "${running}" /bin/sh /etc/codehornets/redis.sh save > "${staged}.redis"
  else
    "${here}/compose.sh" --profile redis run --rm -T --no-deps redis save > "${staged}.redis"
  fi
  [ "$(head -c 5 "${staged}.redis")" = REDIS ] || not_saved
  ln "${staged}.redis" "${file}.redis"
  echo "saved what Redis holds as ${file}.redis"
fi
# A half one is never mistaken for a whole one, and none that came meanwhile is written over.
ln "${staged}" "${file}"
echo "saved as ${file}"
