#!/usr/bin/env bash
# hooks-status.sh: how the composed team is, and for each worker its hook rules and its pipes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/compose/stack.sh
. "${here}/stack.sh"
container=$(any_container)
[ -n "${container}" ] || no_stack
in_container "${container}" codehornets status
failed=0
while read -r service name _; do
  # shellcheck disable=SC2016  # expanded in the container
  in_container "${name}" bash -c 'cd /etc/codehornets && codehornets hooks check' || { echo "${service}: its hook rules are wrong." >&2; failed=1; }
  break
done < <(containers | grep ' running worker$')
"${here}/pipes.sh" || failed=1
exit "${failed}"
