#!/bin/sh
# Checks what a build needs from the system and cannot get from the Python package index. Says in one command what is missing.
# Usage: tools/prerequisites.sh <python> [gtest]. With `gtest`, GoogleTest is installed when that needs no question.
set -u
python=$1
want_gtest=${2:-}
missing=""

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  found=$("$python" --version 2>/dev/null || echo "none")
  echo "Pagoda needs Python 3.11 or newer; '$python' is: $found." >&2
  echo "Install one (Debian, Ubuntu: sudo apt-get install python3 python3-venv python3-dev), or name another: make PYTHON=/path/to/python3" >&2
  exit 1
fi
"$python" -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
"$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
  missing="$missing python3-dev"
command -v "${CXX:-c++}" >/dev/null 2>&1 || missing="$missing g++"

if [ "$want_gtest" = gtest ]; then
  set -- /usr/lib/cmake/GTest /usr/lib/*/cmake/GTest /usr/lib64/cmake/GTest /usr/local/lib/cmake/GTest /usr/local/lib/*/cmake/GTest
  found_gtest=no
  for folder in "$@"; do
    [ -d "$folder" ] && found_gtest=yes
  done
  [ $found_gtest = yes ] || missing="$missing libgtest-dev"
fi
[ -n "$missing" ] || exit 0

install="apt-get update && apt-get install -y --no-install-recommends$missing"
if [ "$missing" = " libgtest-dev" ] && command -v apt-get >/dev/null 2>&1; then
  as_root=""
  [ "$(id -u)" = 0 ] || as_root="sudo -n"
  if [ -z "$as_root" ] || sudo -n true 2>/dev/null; then
    echo "installing libgtest-dev (GoogleTest)"
    log=$($as_root sh -c "export DEBIAN_FRONTEND=noninteractive; $install" 2>&1) && exit 0
    echo "$log" >&2
  fi
fi
echo "Missing on this system:$missing" >&2
echo "Install it (Debian, Ubuntu): sudo sh -c '$install'" >&2
echo "On another system, install its packages of the same contents." >&2
exit 1
