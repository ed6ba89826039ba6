#!/bin/sh
# Installs the packages of extras of pyproject.toml. Usage: tools/install_extra.sh <python of the environment> <extra>...
set -eu
python=$1
shift
"$python" "$(dirname "$0")/requirements.py" "$@" | "$python" -m pip install --disable-pip-version-check --requirement /dev/stdin
