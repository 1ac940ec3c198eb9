#!/usr/bin/env bash
# stop.sh: stop the composed team in whatever mode it runs. Running tasks have their grace period; volumes stay.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
profiles=()
for profile in activated hooks hybrid redis monitoring; do profiles+=(--profile "${profile}"); done
"${here}/compose.sh" "${profiles[@]}" down -t "${STOP_TIMEOUT:-60}"
echo "The team has stopped. What it had is kept in its volumes; \`make start\` goes on with it."
