#!/usr/bin/env bash
# overlay.sh apply | diff OVERLAY: what an overlay would change in the cluster that kubectl points to, and its change.
# KUBECTL names another kubectl; K8S_ARGS is handed to it (--context, --server-side, --dry-run=server …).
set -euo pipefail
overlays=$(cd "$(dirname "${BASH_SOURCE[0]}")/overlays" && pwd)
action=${1:-}
overlay=${2:-}
read -ra arguments <<< "${K8S_ARGS:-}"

if [ -z "${overlay}" ] || [ ! -f "${overlays}/${overlay}/kustomization.yaml" ]; then
  echo "overlay.sh: there is no overlay '${overlay}'; say OVERLAY=NAME with one of: $(ls -m "${overlays}")." >&2
  exit 2
fi
case "${action}" in
  apply)
    exec "${KUBECTL:-kubectl}" apply -k "${overlays}/${overlay}" "${arguments[@]}"
    ;;
  diff)
    # Exit code 1 means that there is a difference, which is what was asked for.
    code=0
    "${KUBECTL:-kubectl}" diff -k "${overlays}/${overlay}" "${arguments[@]}" || code=$?
    [ "${code}" -le 1 ] || exit "${code}"
    ;;
  *)
    echo "overlay.sh cannot '${action}'; allowed is apply or diff." >&2
    exit 2
    ;;
esac
