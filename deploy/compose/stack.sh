# shellcheck shell=bash
# Sourced by the scripts beside it: the containers of the composed team, and how to ask one whether it is ready.
# Sets what engine.sh sets; ends the script with one sentence where there is no engine.
stack_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/engine.sh
. "${stack_here}/../engine.sh"
project=${COMPOSE_PROJECT_NAME:-codehornets}

# One line a container: service, name, state, and its role: worker, orchestrator, or another service's own name.
containers() {
  local ids service name state command
  ids=$("${engine:?}" ps -aq --filter "label=com.docker.compose.project=${project}")
  [ -n "${ids}" ] || return 0
  # shellcheck disable=SC2086  # one word an id
  "${engine}" inspect --type container --format \
    '{{index .Config.Labels "com.docker.compose.service"}} {{.Name}} {{.State.Status}} oneoff={{index .Config.Labels "com.docker.compose.oneoff"}} {{json .Config.Cmd}}' ${ids} |
    while read -r service name state oneoff command; do
      [ "${oneoff}" != oneoff=True ] || continue
      case "${command}" in
        '["worker"'*) command=worker ;;
        '["orchestrator"'*) command=orchestrator ;;
        *) command=${service} ;;
      esac
      echo "${service} ${name#/} ${state} ${command}"
    done | sort
}

# The first running container that has the shared directory.
any_container() { containers | awk '$3 == "running" && ($4 == "worker" || $4 == "orchestrator") { print $2; exit }'; }

in_container() { "${engine:?}" exec -i "$@" < /dev/null; }

# is_healthy CONTAINER ROLE: its own health check. Asked for here: podman without systemd never runs it by itself.
is_healthy() {
  case "$2" in
    worker | orchestrator) in_container "$1" /usr/local/bin/healthcheck ;;
    redis) in_container "$1" /bin/sh /etc/codehornets/redis.sh check ;;
    prometheus) in_container "$1" /bin/promtool query instant http://127.0.0.1:9090 "vector(1)" ;;
    *) true ;;
  esac > /dev/null 2>&1
}

# is_ready CONTAINER ROLE: healthy, and a service of ours would take work now.
is_ready() {
  is_healthy "$1" "$2" || return 1
  case "$2" in worker | orchestrator) ;; *) return 0 ;; esac
  # shellcheck disable=SC2016  # expanded in the container
  in_container "$1" bash -c 'exec 3<>"/dev/tcp/127.0.0.1/${HTTP_PORT:-8080}" &&
    printf "GET /readyz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n" >&3 &&
    read -r -t 4 _ status _ <&3 && [ "${status}" = 200 ]' > /dev/null 2>&1
}

# wait_ready CONTAINER ROLE: wait for at most START_TIMEOUT seconds; if in vain, say who is not ready, and its last words.
wait_ready() {
  local until=$((SECONDS + ${START_TIMEOUT:-120}))
  until is_ready "$1" "$2"; do
    if [ "${SECONDS}" -ge "${until}" ]; then
      echo "$1 is not ready after ${START_TIMEOUT:-120} s; its last log lines:" >&2
      "${engine:?}" logs --tail 15 "$1" >&2 || true
      return 1
    fi
    sleep 0.3
  done
}

no_stack() {
  echo "The composed team does not run; start it with \`make start\`, \`make start-hooks\` or \`make start-hybrid\`." >&2
  exit 2
}
