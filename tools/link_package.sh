#!/bin/sh
# Puts the Python packages beside the extension of a build folder, by links, without an installation: for PYTHONPATH.
# Usage: tools/link_package.sh <build folder> [folder to make, default <build folder>/site]. Prints the folder made.
root=$(cd "$(dirname "$0")/.." && pwd) && build=$(cd "$1" && pwd) || exit 1
site=${2:-$build/site}
set -- "$build"/_core*.so
[ -e "$1" ] || { echo "$build holds no extension _core*.so; build the target _core" >&2; exit 1; }
mkdir -p "$site/pagoda" && ln -sfn "$root"/py/pagoda/* "$site/pagoda/" && ln -sfn "$root/py/enginectl" "$site/enginectl" &&
  ln -sfn "$@" "$site/pagoda/" && echo "$site"
