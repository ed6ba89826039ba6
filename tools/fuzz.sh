#!/bin/sh
# Builds the C++ fuzzers, then runs each of them and of those of Python for some seconds, as many at a time as there are jobs.
# Usage: tools/fuzz.sh <python of the environment> <seconds> <jobs>
set -u
cd "$(dirname "$0")/.." || exit 1
python=$1
seconds=$2
jobs=$3
case $seconds in
  '' | *[!0-9]* | 0*) echo "the seconds must be a whole number from 1 on, got '$seconds'" >&2 && exit 1 ;;
esac
build=build/fuzz
readers="safetensors gguf json"
texts="config vocabulary chat replies"
compiler=$(tools/fuzz_compiler.sh) || exit 1
tools/quietly.sh "configuring the fuzzers" cmake -S . -B $build -G Ninja -DCMAKE_CXX_COMPILER="$compiler" -DPAGODA_FUZZ=ON \
  -DPAGODA_PYTHON=OFF -DPAGODA_CUDA=OFF || exit 1
tools/quietly.sh "building the fuzzers" cmake --build $build -j "$jobs" --target fuzz_safetensors fuzz_gguf fuzz_json || exit 1
echo "== fuzzing, $seconds s each: $readers $texts"
{
  for name in $readers; do echo "$name $seconds $build/fuzz_$name"; done
  for name in $texts; do echo "$name $seconds $python tests/fuzz/fuzz_python.py $name"; done
} | xargs -P "$jobs" -L 1 tools/fuzz_run.sh
