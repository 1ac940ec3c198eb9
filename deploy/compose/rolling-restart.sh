#!/usr/bin/env bash
# rolling-restart.sh [--update] [SERVICE…]: restart the workers and then the orchestrator, one after the other, each only
# when the one before is ready again. Running tasks have their grace period and go on afterwards. Redis and Prometheus
# are left alone. With --update each container is made anew, from the image and the settings that are there now.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/compose/stack.sh
. "${here}/stack.sh"
update=no
if [ "${1:-}" = --update ]; then update=yes; shift; fi

# keep_mode CONTAINER: the mode is not in the file but was in the environment of whoever started the team.
keep_mode() {
  local name value
  while IFS='=' read -r name value; do
    case "${name}" in WORKER_MODE | ACTIVATION_WRAPPER | HOOKS_MODE | ACTIVATION_MODE | GOALS) export "${name}=${value}" ;; esac
  done < <("${engine:?}" inspect --type container --format '{{range .Config.Env}}{{println .}}{{end}}' "$1")
}

# again SERVICE CONTAINER
again() {
  if [ "${update}" = no ]; then
    "${engine:?}" restart -t "${STOP_TIMEOUT:-60}" "$2" > /dev/null
    return
  fi
  keep_mode "$2"
  "${here}/compose.sh" up -d --no-deps --force-recreate "$1" > /dev/null
}

rows=$(containers)
[ -n "${rows}" ] || no_stack
chosen=0
for wanted in worker orchestrator; do
  while read -r service name _ role; do
    [ "${role}" = "${wanted}" ] || continue
    [ $# -eq 0 ] || [[ " $* " = *" ${service} "* ]] || continue
    chosen=$((chosen + 1))
    echo "Restarting ${service} …"
    again "${service}" "${name}" < /dev/null
    wait_ready "${name}" "${role}" < /dev/null || { echo "${service} is not ready again; those after it were left alone." >&2; exit 1; }
    echo "  ${service} is ready"
  done <<< "${rows}"
done
[ "${chosen}" -gt 0 ] || { echo "No service of the team is called ${*:-so}; there are $(cut -d ' ' -f 1 <<< "${rows}" | paste -sd ' ')." >&2; exit 2; }
echo "Restarted: ${chosen}"
