#!/bin/sh
# Prints the paths of all C++ and CUDA files, separated by NUL, for clang-format.
cd "$(dirname "$0")/.." || exit 1
for folder in cpp cuda tests bench; do
  [ ! -d "$folder" ] || find "$folder" -type f \( -name '*.cc' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) -print0
done
