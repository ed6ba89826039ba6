#!/bin/sh
# Runs the device suite's small tests under compute-sanitizer: memcheck for accesses out of bounds, racecheck for races in shared
# memory. Usage: tests/cuda/device/sanitizer.sh <pagoda_cuda_device> [gtest filter]. Status 0 also where the tool is missing or
# refuses the device, which it says in one line.
suite=$1
# Sizes grow with the device: a hundredth of the speed is left, so only these.
small='Wrappers*.*:Rows.norm_in_place:Attention.steps_of_all_kinds:Experts.combine:Linear.odd_columns'
filter=${2:-$small:Sampling.drawn_tokens_are_fed_to_the_next_step}
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer /usr/local/cuda*/compute-sanitizer/compute-sanitizer \
  2>/dev/null | head -n 1)
if [ -z "$sanitizer" ]; then
  echo "compute-sanitizer is not installed: memory accesses and races were not checked"
  exit 0
fi
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
status=0
for tool in memcheck racecheck; do
  "$sanitizer" --tool "$tool" --error-exitcode 99 "$suite" --gtest_filter="$filter" --gtest_brief=1 >"$log" 2>&1
  code=$?
  refused='not supported|Unable to find injection library|terminated before first instrumented API call'
  if grep -qE "$refused" "$log"; then
    echo "compute-sanitizer $tool cannot run here: $(grep -m 1 -E "$refused" "$log")"
  elif [ $code -ne 0 ]; then
    echo "compute-sanitizer $tool: status $code"
    tail -n 60 "$log"
    status=1
  else
    echo "compute-sanitizer $tool: $(grep -m 1 'ERROR SUMMARY' "$log" || grep -m 1 SUMMARY "$log" || echo no errors)"
  fi
done
exit $status
