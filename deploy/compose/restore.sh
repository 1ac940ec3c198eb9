#!/usr/bin/env bash
# restore.sh FILE: put a backup of backup.sh into the volumes of the composed team, which must be stopped and empty
# (`compose.sh down -v` empties them). Asks first; YES=1 does not.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ $# -ne 1 ] || [ ! -f "$1" ]; then
  echo "restore.sh needs a backup: ${1:-none was named}${1:+ is no file}." >&2
  exit 2
fi
file=$1

if [ "${YES:-}" != 1 ]; then
  if [ ! -t 0 ]; then
    echo "Nobody is here to be asked whether ${file} is to be restored; set YES=1." >&2
    exit 2
  fi
  read -r -p "Restore ${file} into the volumes of the composed team? [y/N] " answer
  case "${answer}" in [yY] | [yY][eE][sS]) ;; *) echo "Nothing was done."; exit 1 ;; esac
fi

# In the container, as root: new volumes belong to root until somebody gives them away. The names of homes and
# workspaces are those of their volumes, and those that the backup does not have are left alone.
# shellcheck disable=SC2016  # expanded there
restored='names=$(python3 -c "$NAMES")
set --
for name in ${names}; do set -- "$@" --also "${name}=/saved/${name}"; done
codehornets restore - "$@"
chown 1000:1000 /shared /var/lib/codehornets
find /shared /var/lib/codehornets -xdev ! -uid 1000 -exec chown -h 1000:1000 {} +
for name in ${names}; do chown -hR 1000:1000 "/saved/${name}"; done'
