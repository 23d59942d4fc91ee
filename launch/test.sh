#!/usr/bin/env bash
# Everything that must be true of the project: installs, then lint, format, types,
# shell scripts, tests. CI runs this file. Pass --fast to leave the slow tests out.
set -euo pipefail
cd "$(dirname "$0")/.."
bash launch/install.sh

echo "test: lint and format"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/shellcheck launch/*.sh .ci/run

# Types take a minute of one core: beside the tests, and told after them.
told=$(mktemp)
trap 'kill "$types" 2>/dev/null || true; rm -f "$told"' EXIT
.venv/bin/basedpyright > "$told" 2>&1 &
types=$!

echo "test: tests"
chosen=()
[ "${1:-}" = "--fast" ] && chosen=(-m "not slow")
status=0
# One process a core, one thread pool each: XLA and BLAS would otherwise fight.
{ .venv/bin/python -m pytest -n 2 --dist worksteal "${chosen[@]}"; } || status=$?

echo "test: types"
wait "$types" || status=$?
cat "$told"
exit "$status"
