#!/usr/bin/env bash
# rolling-restart.sh [SERVICE…]: restart the workers and then the orchestrator, one after the other, each only when the one
# before is ready again. Running tasks have their grace period and go on afterwards. Redis and Prometheus are left alone.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/compose/stack.sh
. "${here}/stack.sh"
rows=$(containers)
[ -n "${rows}" ] || no_stack
chosen=0
for wanted in worker orchestrator; do
  while read -r service name _ role; do
    [ "${role}" = "${wanted}" ] || continue
    [ $# -eq 0 ] || [[ " $* " = *" ${service} "* ]] || continue
    chosen=$((chosen + 1))
    echo "Restarting ${service} …"
    "${engine:?}" restart -t "${STOP_TIMEOUT:-60}" "${name}" > /dev/null < /dev/null
    wait_ready "${name}" "${role}" < /dev/null || { echo "${service} is not ready again; those after it were left alone." >&2; exit 1; }
    echo "  ${service} is ready"
  done <<< "${rows}"
done
[ "${chosen}" -gt 0 ] || { echo "No service of the team is called ${*:-so}; there are $(cut -d ' ' -f 1 <<< "${rows}" | paste -sd ' ')." >&2; exit 2; }
echo "Restarted: ${chosen}"
