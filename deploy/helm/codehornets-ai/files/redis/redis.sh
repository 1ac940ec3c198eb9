#!/bin/sh
# redis.sh serve | check | save | load: Redis in its container.
#   serve  with the password of the team, where there is one: in a file on memory, never on a command line
#   check  exit code 0 where it answers
#   save   writes all it holds to standard output, as it is in one moment; where it does not run, from its files
#   load   the reverse, from standard input into a place that holds nothing; not while it runs
set -eu
data=${REDIS_DATA:-/data}
secret=${REDIS_SECRET:-/run/secrets/redis_password}
# An unreadable password must not become none.
if [ -e "$secret" ] && [ ! -r "$secret" ]; then
  echo "redis: $secret cannot be read by user $(id -u); let it be read (chmod 644), in a folder that only you may enter." >&2
  exit 2
fi
case "${1:-}" in save) scratch=$(mktemp -d "$data/.saving-XXXXXX") ;; *) scratch=$(mktemp -d) ;; esac
trap 'rm -rf "$scratch"' EXIT

write_settings() {
  umask 077
  {
    # Nothing that was accepted may be lost: each write is on the disk before it is answered.
    printf '%s\n' "dir $data" 'appendonly yes' 'appendfsync always' 'save ""' 'maxmemory-policy noeviction'
    if [ -s "$secret" ]; then
      printf 'requirepass "%s"\n' "$(sed 's/["\\]/\\&/g' "$secret")"
    else
      printf 'protected-mode no\n'
    fi
  } > "$1"
}

if [ -s "$secret" ]; then REDISCLI_AUTH=$(cat "$secret"); export REDISCLI_AUTH; fi
# To a file first, beside the data since memory may not hold it: what goes straight to a pipe ends in a mark of the
# transfer, which no Redis reads.
dump() {
  redis-cli "$@" --rdb "$scratch/dump" > "$scratch/said" 2>&1 || { cat "$scratch/said" >&2; return 1; }
  cat "$scratch/dump"
}
answers() { [ "$(redis-cli "$@" ping 2> /dev/null)" = PONG ]; }

case "${1:-}" in
  serve)
    write_settings /tmp/redis.conf
    rm -rf "$scratch"
    exec redis-server /tmp/redis.conf
    ;;
  check)
    answers
    ;;
  save)
    if answers; then
      dump
      exit
    fi
    # Nobody else has its files: it is started for this alone, where nobody can reach it.
    write_settings "$scratch/redis.conf"
    redis-server "$scratch/redis.conf" --port 0 --unixsocket "$scratch/socket" > "$scratch/log" 2>&1 &
    server=$!
    until answers -s "$scratch/socket"; do
      kill -0 "$server" 2> /dev/null || { cat "$scratch/log" >&2; exit 1; }
      sleep 0.1
    done
    code=0
    dump -s "$scratch/socket" || code=1
    redis-cli -s "$scratch/socket" shutdown > /dev/null 2>&1 || true
    wait "$server" || true
    exit "$code"
    ;;
  load)
    if [ -n "$(ls -A "$data")" ]; then
      echo "Redis has something in $data already; nothing is mixed. Empty it (compose.sh down -v) and restore again." >&2
      exit 2
    fi
    # It reads its append-only files and nothing else: the save becomes the base of a new one.
    mkdir "$data/appendonlydir"
    base=$data/appendonlydir/appendonly.aof.1.base.rdb
    cat > "$base"
    if ! redis-check-rdb "$base" > "$scratch/said" 2>&1; then
      rm -r "$data/appendonlydir"
      echo "What came is no whole save of Redis; nothing was restored." >&2
      exit 2
    fi
    : > "$data/appendonlydir/appendonly.aof.1.incr.aof"
    printf '%s\n' 'file appendonly.aof.1.base.rdb seq 1 type b' 'file appendonly.aof.1.incr.aof seq 1 type i' \
      > "$data/appendonlydir/appendonly.aof.manifest"
    sync
    ;;
  *)
    echo "redis.sh cannot '${1:-}'; allowed is serve, check, save or load." >&2
    exit 2
    ;;
esac
