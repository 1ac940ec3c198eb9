#!/usr/bin/env bash
# stop.sh: stop the composed team in whatever mode it runs. Running tasks have their grace period; volumes stay.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/compose/stack.sh
. "${here}/stack.sh"
rows=$(containers)
[ -n "${rows}" ] || { echo "The composed team does not run; there is nothing to stop."; exit 0; }
# compose leaves alone what belongs to a profile that is not named.
profiles=()
if grep -q '^redis ' <<< "${rows}"; then profiles+=(--profile redis); fi
if grep -qE '^(prometheus|alertmanager) ' <<< "${rows}"; then profiles+=(--profile monitoring); fi
"${here}/compose.sh" "${profiles[@]}" down -t "${STOP_TIMEOUT:-60}"
echo "The team has stopped. What it had is kept in its volumes; \`make start\` goes on with it."
