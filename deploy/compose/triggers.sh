#!/usr/bin/env bash
# triggers.sh count|clean: count the triggers that wait, or delete them. Works on the composed team, else on ./shared
# (SHARED_DIR). What is in flight, set aside or done is never touched: it lies elsewhere. `clean` asks first; YES=1 does not.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "${here}/../.." && pwd)
what=${1:-}
case "${what}" in count | clean) ;; *) echo "triggers.sh: '${what}' is unknown; allowed is count or clean." >&2; exit 2 ;; esac

container=""
# shellcheck source=deploy/compose/stack.sh
if (. "${here}/stack.sh") > /dev/null 2>&1; then
  # shellcheck source=deploy/compose/stack.sh
  . "${here}/stack.sh"
  container=$(any_container || true)
fi
if [ -n "${container}" ]; then
  shared=/shared where="the composed team"
else
  shared=${SHARED_DIR:-${root}/shared} where=${shared}
  [ -d "${shared}/triggers" ] || { echo "Neither the composed team runs, nor is there ${shared}/triggers; start it with \`make start\`." >&2; exit 2; }
fi
there() { if [ -n "${container}" ]; then "${engine:?}" exec -i "${container}" "$@"; else "$@"; fi; }

# Names end with a NUL: a trigger may be called anything.
list() { there find "${shared}/triggers" -mindepth 2 -maxdepth 2 -name '*.trigger' -type f -print0 < /dev/null; }

mapfile -d '' -t files < <(list)
printf '%s\n' "Waiting triggers of ${where}: ${#files[@]}"
[ "${#files[@]}" -eq 0 ] || printf '%s\0' "${files[@]}" | tr '\n' ' ' | xargs -0 -n 1 dirname | sed 's|.*/||' | sort | uniq -c |
  while read -r number name; do echo "  ${name}: ${number}"; done
[ "${what}" = clean ] && [ "${#files[@]}" -gt 0 ] || exit 0

if [ "${YES:-}" != 1 ]; then
  [ -t 0 ] || { echo "Nothing was deleted: nobody is there to be asked. YES=1 deletes without asking." >&2; exit 2; }
  read -r -p "Delete these ${#files[@]}? Tasks among them will never run. [y/N] " answer
  case "${answer}" in y | Y | yes) ;; *) echo "Nothing was deleted."; exit 0 ;; esac
fi
# Those that were counted, and no others; what a worker has taken meanwhile runs.
printf '%s\0' "${files[@]}" | there xargs -0 rm -f --
echo "Deleted: ${#files[@]}"
