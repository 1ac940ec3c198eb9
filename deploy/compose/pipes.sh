#!/usr/bin/env bash
# pipes.sh: whether each worker of the composed team has its control and its status pipe. Exit code 1 where one is missing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/compose/stack.sh
. "${here}/stack.sh"
rows=$(containers | grep ' running worker$') || no_stack
failed=0
while read -r service name _; do
  # shellcheck disable=SC2016  # expanded in the container
  mode=$(in_container "${name}" bash -c 'sed -n "s/.*\"mode\":\"\([a-z-]*\)\".*/\1/p" "/shared/heartbeats/${WORKER_NAME}-watcher.json"' || true)
  case "${mode}" in
    hooks | hybrid) ;;
    *) echo "- LEFT OUT: ${service}: pipes: there are none in the mode ${mode:-that it runs in}"; continue ;;
  esac
  for end in control status; do
    # shellcheck disable=SC2016
    if in_container "${name}" bash -c '[ -p "/shared/pipes/${WORKER_NAME}-$1" ]' check "${end}"; then
      echo "✓ PASS: ${service}: pipes: /shared/pipes/${service}-${end} is a named pipe"
    else
      echo "✗ FAIL: ${service}: pipes: /shared/pipes/${service}-${end} is no named pipe (remove it; the worker makes it anew)"
      failed=1
    fi
  done
done <<< "${rows}"
exit "${failed}"
