#!/usr/bin/env bash
# Everything that must be true of the project: installs, then lint, format, types,
# shell scripts, tests. CI runs this file. Pass --fast to leave the slow tests out.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE  # else each program that a test starts compiles all modules
bash launch/install.sh

if [ "${1:-}" != "--fast" ] && [ ! -d .venv/compilers/libtpu ]; then
  # The compiler for TPUs, for the tests of --compile_for. Within the environment itself,
  # JAX would look for TPUs in every process.
  echo "test: installing the compiler for TPUs (200 MB)"
  compiler=$(.venv/bin/python -c 'from importlib import metadata
lines = metadata.requires("jax")
print(next(line.split(";")[0] for line in lines if line.startswith("libtpu")))')
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
    --target .venv/compilers "$compiler" ||
    echo "test: not installed; tests that need it are skipped (in CI on Linux x86-64: fail)"
fi

echo "test: lint and format"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/shellcheck launch/*.sh .ci/run

# Types take a minute of one core: beside the tests, and told after them.
types_log=$(mktemp)
trap 'kill "$types" 2>/dev/null || true; rm -f "$types_log"' EXIT
.venv/bin/basedpyright > "$types_log" 2>&1 &
types=$!

echo "test: tests"
# Small matrices are most of what tests compute; threads that wait for each other take
# eight times the processor time of one.
export OPENBLAS_NUM_THREADS=1
without=""
num_optimized=2
# One process for few tests: a second one imports as much, and the types take its core.
[ "${1:-}" = "--fast" ] && without=" and not slow" && num_optimized=0
status=0
test_marked() {
  # One process a core, one thread pool each: XLA and BLAS would otherwise fight.
  .venv/bin/python -m pytest -n "$2" --dist worksteal --durations=40 --durations-min=5 \
    -m "$1$without" "${@:3}" || status=$?
}
files=()  # To import all others takes half a minute. Bash 3, of macOS, has no mapfile.
while IFS= read -r file; do
  files+=("$file")
done < <(grep -rl --include='*_test.py' 'mark\.optimized' tests)
test_marked optimized "$num_optimized" "${files[@]}"
# Compiling takes most of the time. XLA's older code for fusions takes a third of it away,
# and to compile small programs as a whole another tenth, where this JAX still has these
# flags; tests marked `optimized` do without, as users do.
fusion_flags=""
for flag in --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1; do
  XLA_FLAGS=$flag .venv/bin/python -c 'import jax; jax.numpy.zeros(1)' 2> /dev/null ||
    continue
  fusion_flags="$fusion_flags $flag"
done
XLA_FLAGS="${XLA_FLAGS:-} $fusion_flags" test_marked "not optimized" 2

echo "test: types"
wait "$types" || status=$?
cat "$types_log"
exit "$status"
