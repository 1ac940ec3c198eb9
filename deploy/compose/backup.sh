#!/usr/bin/env bash
# backup.sh [FILE]: save the composed team, running or not, into a new file here: queues, results, dead letters, ledger
# and auth homes; WORKSPACES=1 saves the workspaces as well. Default: codehornets-DATE-TIME.tar.gz.
# The file may hold credentials and is for its owner's eyes alone.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

file=${1:-codehornets-$(date +%Y%m%d-%H%M%S).tar.gz}
if [ -e "${file}" ]; then
  echo "${file} is there already; name a new file, or remove that one." >&2
  exit 2
fi

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
trap 'rm -f "${staged}"' EXIT
run "${saved}" > "${staged}"
if [ "$(head -c 2 "${staged}" | od -An -tx1 | tr -d ' ')" != 1f8b ]; then
  echo "Something else than the backup was written; nothing was saved. Try again." >&2
  exit 1
fi
# A half one is never mistaken for a whole one, and none that came meanwhile is written over.
ln "${staged}" "${file}"
echo "saved as ${file}"
