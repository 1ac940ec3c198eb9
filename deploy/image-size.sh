#!/usr/bin/env bash
# image-size.sh [IMAGE LIMIT_MB]…: prints how large the images are beside what they may be. Ends with 1 where one is too large,
# with 2 where one is not there. Without arguments: our two images.
#
# The size is that of all files of the image, uncompressed, in MB of 1,000,000 bytes: what the engine says of the layers, or what
# it hands out when it exports a container, whichever is more. Some Docker stores know only what they have compressed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/engine.sh
. "${here}/engine.sh"

if [ $# -eq 0 ]; then
  set -- "${WORKER_IMAGE:-codehornets-ai/worker:latest}" "${WORKER_LIMIT_MB:-700}" \
    "${ORCHESTRATOR_IMAGE:-codehornets-ai/orchestrator:latest}" "${ORCHESTRATOR_LIMIT_MB:-250}"
fi
if [ $(($# % 2)) -ne 0 ]; then
  echo "image-size: an image and its limit in MB are given in pairs: image-size.sh IMAGE LIMIT_MB …" >&2
  exit 2
fi

exported_bytes() {
  local container
  container=$("${engine}" create "$1" nothing)
  "${engine}" export "${container}" | wc -c
  # podman without systemd complains of a timer here that was never there.
  "${engine}" rm "${container}" > /dev/null 2>&1
}

code=0
printf '| image | size | limit | |\n|---|---|---|---|\n'
while [ $# -gt 0 ]; do
  image=$1 limit=$2
  shift 2
  if ! bytes=$("${engine}" image inspect --format '{{.Size}}' "${image}" 2> /dev/null); then
    echo "image-size: ${engine} has no image ${image}; make it with \`make build\`." >&2
    exit 2
  fi
  exported=$(exported_bytes "${image}")
  [ "${exported}" -gt "${bytes}" ] && bytes=${exported}
  megabytes=$(((bytes + 999999) / 1000000))
  verdict='✓'
  if [ "${megabytes}" -gt "${limit}" ]; then
    verdict='✗ too large'
    code=1
  fi
  printf '| %s | %d MB | %d MB | %s |\n' "${image}" "${megabytes}" "${limit}" "${verdict}"
done
exit "${code}"
