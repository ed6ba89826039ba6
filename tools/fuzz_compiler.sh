#!/bin/sh
# Prints the name of a clang++ that can link fuzzers. Without one it installs clang by apt where that needs no question, else it
# says what to do and fails. Usage: tools/fuzz_compiler.sh
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
printf '%s\n' '#include <cstddef>' '#include <cstdint>' \
  'extern "C" int LLVMFuzzerTestOneInput(const uint8_t*, size_t) { return 0; }' >"$work/probe.cc"

find_compiler() {
  for compiler in clang++ clang++-22 clang++-21 clang++-20 clang++-19 clang++-18 clang++-17 clang++-16 clang++-15 clang++-14; do
    "$compiler" -std=c++20 -fsanitize=fuzzer,address,undefined "$work/probe.cc" -o "$work/probe" >/dev/null 2>&1 || continue
    echo "$compiler"
    return 0
  done
  return 1
}

find_compiler && exit 0
install="apt-get update && apt-get install -y --no-install-recommends clang libclang-rt-dev"
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo -n"
if command -v apt-get >/dev/null 2>&1 && { [ -z "$as_root" ] || sudo -n true 2>/dev/null; }; then
  echo "installing clang" >&2
  $as_root sh -c "export DEBIAN_FRONTEND=noninteractive; $install" >"$work/log" 2>&1 || cat "$work/log" >&2
  find_compiler && exit 0
fi
echo "The fuzzers need clang++ 14 or newer with libFuzzer and the address sanitizer, and none was found." >&2
echo "Install it (Debian, Ubuntu): sudo sh -c '$install'" >&2
exit 1
