#!/bin/sh
# Runs a command and shows its output only if it fails. Usage: tools/quietly.sh "<what it does>" <command> [arguments...]
what=$1
shift
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
printf '== %s\n' "$what"
"$@" >"$log" 2>&1
status=$?
if [ $status -ne 0 ]; then
  cat "$log" >&2
  printf '== failed (exit status %d): %s\n   %s\n' "$status" "$what" "$*" >&2
fi
exit $status
