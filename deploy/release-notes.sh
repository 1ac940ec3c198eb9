#!/usr/bin/env bash
# release-notes.sh VERSION: prints the changelog's section of that version. Ends with 1 where the code has another version, or
# the changelog no such section.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
version=${1:?"release-notes.sh VERSION: which section of CHANGELOG.md to print"}

code=$(sed -n 's/^VERSION = "\(.*\)"$/\1/p' "${root}/agent_bus/__init__.py")
if [ "${code}" != "${version}" ]; then
  echo "release-notes: the tag says ${version} and agent_bus.VERSION is ${code}; make them the same." >&2
  exit 1
fi
notes=$(awk -v head="## [${version}]" '
  /^## / { inside = index($0, head) == 1; next }
  inside { print }
' "${CHANGELOG:-${root}/CHANGELOG.md}")
if [ -z "${notes//[[:space:]]/}" ]; then
  echo "release-notes: CHANGELOG.md has nothing under '## [${version}]'; move what is under [Unreleased] there." >&2
  exit 1
fi
printf '%s\n' "${notes}"
