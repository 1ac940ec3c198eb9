#!/usr/bin/env bash
# restore.sh FILE [OPTION…]: put a backup of backup.sh into the volumes of the composed team, which must be stopped and
# empty (`compose.sh down -v` empties them), and what lies beside it as FILE.redis into Redis. Asks first; YES=1 does not.
# Options are those of `codehornets restore`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

file=${1:-}
if [ ! -f "${file}" ]; then
  echo "There is no backup ${file:-here}; name one: restore.sh FILE." >&2
  exit 2
fi
shift

if [ "${YES:-}" != 1 ]; then
  if [ ! -t 0 ]; then
    echo "Nobody is here to be asked whether ${file} is to be restored; set YES=1." >&2
    exit 2
  fi
  read -r -p "Restore ${file} into the volumes of the composed team? [y/N] " answer
  case "${answer}" in [yY] | [yY][eE][sS]) ;; *) echo "Nothing was done."; exit 1 ;; esac
fi

# In the container: a new volume that no image has filled belongs to root; it is given to the team's user, as whom all
# else is done.
# shellcheck disable=SC2016  # expanded there
restored='for place in /saved/*; do
  [ "$(stat -c %u "${place}")" != 0 ] || [ -n "$(ls -A "${place}")" ] || chown 1000:1000 "${place}"
done
exec setpriv --reuid 1000 --regid 1000 --clear-groups codehornets restore - --also-below /saved "$@"'
"${here}/compose.sh" --profile maintenance run --rm -T maintenance "${restored}" restore "$@" < "${file}"

if [ -f "${file}.redis" ]; then
  "${here}/compose.sh" --profile redis run --rm -T --no-deps redis load < "${file}.redis" > /dev/null
  echo "restored what Redis held from ${file}.redis"
fi
