#!/bin/sh
# Runs the C++ tests of a build folder and prints one line if all pass, else what failed and why.
# Usage: tools/run_ctest.sh <build folder> <jobs> [ctest's own arguments]
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
folder=$1
jobs=$2
shift 2
ctest --test-dir "$folder" -j "$jobs" --timeout 300 --output-on-failure --no-tests=error "$@" >"$log" 2>&1
status=$?
if [ $status -eq 0 ]; then
  grep 'tests passed' "$log"
else
  grep -Ev '^ *Start +[0-9]+:| Passed +[0-9.]+ sec$' "$log" >&2
fi
exit $status
