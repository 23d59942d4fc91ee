#!/usr/bin/env bash
# Makes .venv with every pinned package of requirements.lock and this project in it.
# Does nothing when that has been done for the same lock. Called by the other scripts.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || python=python3
if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])'; then
  echo "Found: $("$python" --version 2>&1 || echo 'no Python'). Expected: Python 3.11 or 3.12." >&2
  echo "To do: install one and run again, or name it: PYTHON=/path/to/python3.11 bash $0" >&2
  exit 1
fi
wanted=$(cat requirements.lock setup.py | sha256sum | cut -d' ' -f1)
if [ "$(cat .venv/installed 2>/dev/null || true)" = "$wanted" ]; then
  echo "install: .venv is up to date"
  exit 0
fi
echo "install: making .venv with $("$python" --version) and $(grep -c == requirements.lock) pinned packages (1 to 3 minutes, 3 GB)"
"$python" -m venv --clear .venv
# --no-deps: the lock is complete, and it holds tensorflow-cpu in place of the full
# tensorflow that tensorflow-text asks for.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
echo "$wanted" > .venv/installed
echo "install: done"
