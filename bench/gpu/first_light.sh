#!/bin/bash
# All that is to be known from a GPU that is there for some minutes, in this order: build, conformance of the instructions, device
# suite, benchmark of kernels, benchmark of the engine, end to end, peers, sanitizer. Every step has a time limit, and a failure does
# not stop the next one. Needs nvcc, CMake, ninja and python3 (with pybind11 and the packages of the server), and no network.
#
#   bench/gpu/first_light.sh [folder for the results]
#
# The results go to the folder given, else to $OUT, else to bench/results/local. GOOGLETEST_SOURCE names GoogleTest's sources where it
# is not installed; FIRST_LIGHT_SECONDS is the time for everything, 530 if unset.
cd "$(dirname "$0")/../.." || exit 1
out=$(mkdir -p "${1:-${OUT:-bench/results/local}}" && cd "${1:-${OUT:-bench/results/local}}" && pwd) || exit 1
build=$PWD/build/first_light
seconds=${FIRST_LIGHT_SECONDS:-530}
jobs=$(nproc)
commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
log=$out/first_light.log
: >"$log"
failed=0

# step <name> <most seconds> <command...>: its output goes to the log; one line tells how it went.
step() {
  local name=$1 limit=$2 left=$((seconds - SECONDS)) begin=$SECONDS status
  shift 2
  if [ "$left" -le 5 ]; then
    echo "$name: no time left" | tee -a "$log"
    failed=1
    return 1
  fi
  [ "$limit" -lt "$left" ] || limit=$left
  echo "== $name" >>"$log"
  timeout -k 5 "$limit" "$@" >>"$log" 2>&1
  status=$?
  [ $status -eq 0 ] || failed=1
  echo "$name: status $status after $((SECONDS - begin)) s" | tee -a "$log"
  return $status
}

facts() {
  nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total,clocks.sm,clocks.mem --format=csv
  nvcc --version | tail -n 2
  python3 --version
  nproc
  echo "commit $commit"
}

# Only the code that this GPU runs.
architectures() {
  case $(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1) in
    9.0) echo 90a-real ;;
    10.0) echo 100a-real ;;
    *.*) nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | sed 's/\.//; s/$/-real/' ;;
    *) echo '80-real;90a-real' ;;
  esac
}

build_googletest() {
  cmake -S "$GOOGLETEST_SOURCE" -B "$build/googletest" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_GMOCK=OFF \
    -DCMAKE_INSTALL_PREFIX="$build/installed" &&
    cmake --build "$build/googletest" -j "$jobs" --target install
}

build_all() {
  if [ -n "$GOOGLETEST_SOURCE" ]; then build_googletest || return 1; fi
  cmake -S . -B "$build" -G Ninja -DPAGODA_CUDA=ON -DPAGODA_TESTS=ON -DPAGODA_BENCH=ON \
    -DPAGODA_CUDA_ARCHITECTURES="$(architectures)" -DCMAKE_PREFIX_PATH="$build/installed" \
    -DPython_EXECUTABLE="$(command -v python3)" -Dpybind11_DIR="$(python3 -m pybind11 --cmakedir)" &&
    cmake --build "$build" -j "$jobs" --target pagoda_cuda_device gpu_kernels_bench gpu_engine_bench _core
}

export -f facts architectures build_googletest build_all
export build jobs commit GOOGLETEST_SOURCE
libraries=$(python3 py/pagoda/cuda_libraries.py)
export PAGODA_CUDA_LIBRARIES=$libraries
bench="--commit=$commit --libraries=$libraries --cache=$out/tuned"

step "facts" 20 bash -c facts
if ! step "build" $((seconds / 2)) bash -c build_all; then
  tail -n 60 "$log"
  exit 1
fi
suite=$build/tests/cuda/device/pagoda_cuda_device
step "conformance of the instructions" 30 "$suite" --gtest_brief=1 --gtest_filter='Wrappers*'
step "device suite" 150 "$suite" --gtest_brief=1 --gtest_filter='-Wrappers*' --gtest_output=json:"$out/device_suite.json"
step "benchmark of the kernels" 110 "$build/bench/gpu/gpu_kernels_bench" $bench --out="$out/kernels.json"
step "benchmark of the engine" 150 "$build/bench/gpu/gpu_engine_bench" $bench --out="$out/engine.json"
step "package" 10 tools/link_package.sh "$build"
PYTHONPATH=$build/site step "end to end" 60 python3 -m pytest -q tests/cuda/device
step "peers" 60 python3 bench/gpu/peers.py --commit "$commit" --out "$out/peers.json"
step "sanitizer" 60 tests/cuda/device/sanitizer.sh "$suite"
rm -rf "$out/tuned"
grep -E '^\[  FAILED  \]|^FAILED|: Failure$|^compute-sanitizer|share_of_ceiling' "$log" | tail -n 150
exit $failed
