#!/usr/bin/env bash
# field-check.sh [OPTIONS of codehornets check]: check what runs, the composed team or else a team on this machine. One line
# for each thing that was looked at, one count at the end; exit code 0: all well, 1: something failed, 2: nothing runs.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "${here}/../.." && pwd)
passed=0 failed=0 left=0

pass() { echo "✓ PASS: $1"; passed=$((passed + 1)); }
fail() { echo "✗ FAIL: $1"; failed=$((failed + 1)); }

# Take the lines of one `codehornets check` over, and count them.
take() {
  local line
  while IFS= read -r line; do
    case "${line}" in
      '✓ PASS'*) passed=$((passed + 1)) ;;
      '✗ FAIL'*) failed=$((failed + 1)) ;;
      '- LEFT OUT'*) left=$((left + 1)) ;;
      Passed:* | Failed:* | 'Left out:'*) continue ;;
    esac
    echo "${line}"
  done <<< "$1"
}

finish() {
  echo "Passed: ${passed}"
  echo "Failed: ${failed}"
  [ "${left}" -eq 0 ] || echo "Left out: ${left}"
  [ "${failed}" -eq 0 ] || exit 1
  exit 0
}

check_container() {
  local service=$1 name=$2 state=$3 role=$4 lines code
  shift 4
  if [ "${state}" != running ]; then
    fail "${service}: container: ${name} is ${state} (see its log: deploy/compose/compose.sh logs ${service})"
    return
  fi
  pass "${service}: container: ${name} is running"
  if is_healthy "${name}" "${role}"; then
    pass "${service}: container: ${name} is healthy"
  else
    fail "${service}: container: ${name} is not healthy (see its log: deploy/compose/compose.sh logs ${service})"
  fi
  case "${role}" in worker | orchestrator) ;; *) return ;; esac
  code=0
  # The name by which it works, which may be another than the service's.
  # shellcheck disable=SC2016  # expanded in the container
  lines=$(in_container "${name}" bash -c 'exec codehornets check "${WORKER_NAME:-orchestrator}" "$@"' check "$@" 2>&1) || code=$?
  take "${lines}"
  [ "${code}" -le 1 ] || fail "${service}: check: codehornets check ended with ${code} (what it says is above)"
}

check_stack() {
  local rows=$1 service name state role
  shift
  while read -r service name state role; do
    check_container "${service}" "${name}" "${state}" "${role}" "$@"
  done <<< "${rows}"
  for role in worker orchestrator; do
    grep -q " ${role}\$" <<< "${rows}" || fail "${role}: container: there is none (\`make start\`, or the mode that you want)"
  done
  finish
}

rows=""
# Without an engine there may still be a team on this machine.
# shellcheck source=deploy/compose/stack.sh
if (. "${here}/stack.sh") > /dev/null 2>&1; then
  # shellcheck source=deploy/compose/stack.sh
  . "${here}/stack.sh"
  rows=$(containers || true)
fi
[ -z "${rows}" ] || check_stack "${rows}" "$@"

shared=${SHARED_DIR:-${root}/shared}
program=${root}/.venv/bin/codehornets
[ -x "${program}" ] || program=$(command -v codehornets || true)
if [ -n "${program}" ] && compgen -G "${shared}/heartbeats/*.json" > /dev/null; then
  code=0
  lines=$("${program}" check --shared-dir "${shared}" "$@") || code=$?
  [ "${code}" -le 1 ] || exit "${code}"
  take "${lines}"
  finish
fi
echo "Nothing runs, neither the composed team nor one on ${shared}; start one with \`make start-hooks\` or \`make run\`." >&2
exit 2
