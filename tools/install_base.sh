#!/bin/sh
# Installs into a virtual environment what the package needs to be built and to run, ninja, and cmake where the system has none
# that is new enough. Usage: tools/install_base.sh <python of the environment>
set -eu
python=$1
here=$(dirname "$0")
cmake=""
version=$(cmake --version 2>/dev/null | sed -n 's/^cmake version //p')
if [ "$(printf '3.22\n%s\n' "${version:-0}" | sort -V | head -n 1)" != 3.22 ]; then
  cmake="cmake"
fi
"$python" "$here/requirements.py" build runtime |
  "$python" -m pip install --disable-pip-version-check --requirement /dev/stdin ninja $cmake
