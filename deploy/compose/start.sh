#!/usr/bin/env bash
# start.sh polling|activated|hooks|hybrid: start the composed team in that mode, wait until all of it is ready, and say
# what can be done next. Builds the images that are missing. START_TIMEOUT: seconds to wait for each (120).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mode=${1:-polling}
profiles=()
case "${mode}" in
  polling) export ACTIVATION_WRAPPER=0 HOOKS_MODE=0 ;;
  activated) export ACTIVATION_WRAPPER=1 HOOKS_MODE=0; profiles=(--profile activated) ;;
  hooks) export ACTIVATION_WRAPPER=0 HOOKS_MODE=1; profiles=(--profile hooks) ;;
  hybrid) export ACTIVATION_WRAPPER=1 HOOKS_MODE=1; profiles=(--profile hybrid) ;;
  *) echo "start.sh cannot start '${mode}'; allowed is polling, activated, hooks or hybrid." >&2; exit 2 ;;
esac
# shellcheck source=deploy/compose/stack.sh
. "${here}/stack.sh"
# One in .env would win over the two words.
export WORKER_MODE=

for target in worker orchestrator; do
  name=$(tr '[:lower:]' '[:upper:]' <<< "${target}")_IMAGE
  if [ -z "${!name:-}" ] && ! "${engine:?}" image inspect "codehornets-ai/${target}:latest" > /dev/null 2>&1; then
    "${here}/../build.sh" "${target}"
  fi
done
echo "Starting the team in the mode ${mode} …"
"${here}/compose.sh" "${profiles[@]}" up -d

rows=$(containers)
while read -r service name _ role; do
  wait_ready "${name}" "${role}" < /dev/null || { echo "${service} is not ready: see above, or \`make logs-watcher-${service}\`." >&2; exit 1; }
  echo "  ${service} is ready"
done <<< "${rows}"

cat << WORDS

The API is at http://127.0.0.1:${ORCHESTRATOR_PORT:-8700}; its token:
  deploy/compose/compose.sh exec -T orchestrator cat /var/lib/codehornets/api-token
Give a task, see the team, check it, stop it:
  deploy/compose/compose.sh exec -T orchestrator codehornets submit marie "Say hello" --wait
  deploy/compose/compose.sh exec -T orchestrator codehornets status
  make test-hooks
  make stop
WORDS
