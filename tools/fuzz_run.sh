#!/bin/sh
# Runs one fuzzer for some seconds from its corpus, tests/corpus/<name>, which stays as it is. Inputs that lead to something new go
# to build/fuzz/found/<name>/inputs, one that fails to build/fuzz/found/<name>. Prints one line, or what failed.
# Usage: tools/fuzz_run.sh <name> <seconds> <command>...
set -u
name=$1
seconds=$2
shift 2
found=build/fuzz/found/$name
mkdir -p "$found/inputs" || exit 1
log=$found/log
"$@" "$found/inputs" "tests/corpus/$name" -max_total_time="$seconds" -max_len=4096 -timeout=30 -rss_limit_mb=2048 \
  -print_final_stats=1 -artifact_prefix="$found/" >"$log" 2>&1
status=$?
if [ $status -eq 0 ]; then
  echo "$name: $(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$log") inputs, no failure"
else
  tail -n 60 "$log" >&2
  echo "== failed: $name (exit status $status); the input is the file that is named last; run it again with: $* FILE" >&2
fi
exit $status
