#!/bin/sh
# Redis with the password of the team, where there is one. In a file of its own on memory, never on a command line.
set -eu
secret=/run/secrets/redis_password
# An unreadable password must not become none.
if [ -e "$secret" ] && [ ! -r "$secret" ]; then
  echo "redis: $secret cannot be read by user $(id -u); let it be read (chmod 644), in a folder that only you may enter." >&2
  exit 2
fi
case "$1" in
  serve)
    umask 077
    {
      # Nothing that was accepted may be lost: each write is on the disk before it is answered.
      printf '%s\n' 'dir /data' 'appendonly yes' 'appendfsync always' 'save ""' 'maxmemory-policy noeviction'
      if [ -s "$secret" ]; then
        printf 'requirepass "%s"\n' "$(sed 's/["\\]/\\&/g' "$secret")"
      else
        printf 'protected-mode no\n'
      fi
    } > /tmp/redis.conf
    exec redis-server /tmp/redis.conf
    ;;
  check)
    if [ -s "$secret" ]; then REDISCLI_AUTH=$(cat "$secret"); export REDISCLI_AUTH; fi
    [ "$(redis-cli ping)" = PONG ]
    ;;
esac
