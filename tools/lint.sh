#!/bin/sh
# Runs every lint and goes on after a failure, so that one run shows all that is wrong. Expects PY, the environment's python.
cd "$(dirname "$0")/.." || exit 1
bin=$(dirname "$PY")
status=0
run() {
  tools/quietly.sh "$@" || status=1
}
run "source rules" "$PY" tools/lint.py
run "ruff" "$PY" -m ruff check --quiet .
run "ruff format" "$PY" -m ruff format --quiet --check .
run "mypy" "$PY" -m mypy
run "clang-format" sh -c "tools/cpp_files.sh | xargs -0 $bin/clang-format --dry-run -Werror"
exit $status
