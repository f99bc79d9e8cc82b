#!/usr/bin/env bash
# Make .venv hold everything this checkout needs. Runs in a moment when nothing changed since the last time.
# Needs: Python 3.11 or 3.12, git, a C compiler.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.complete
state=$(cat pyproject.toml infra/setup.sh <(pwd) | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ]; then
    exit 0
fi

is_usable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; }
for python in "${PYTHON:-python3}" python3.12 python3.11; do
    is_usable "$python" && break
    python=
done
if [ -z "$python" ]; then
    echo "set-up: no Python 3.11 or 3.12 found; install one, or name it: make setup PYTHON=/path/to/python3.11" >&2
    exit 1
fi

echo "set-up: installing into .venv with $("$python" --version); this takes a few minutes once"
# Debian ships Python without the part of venv that installs pip; any pip can stand in for it.
"$python" -m venv .venv 2>/dev/null ||
    { "$python" -m venv --clear --without-pip .venv && "$python" -m pip --python .venv/bin/python install --quiet pip; }
pip() { .venv/bin/python -m pip -qq --no-input "$@"; } # -qq: errors only
pip install --upgrade pip

# The default torch for Linux is the CUDA build with gigabytes of libraries. Without a GPU take the CPU build, unless
# pip's own configuration already leads to one. The version is the one everything here was measured with.
torch='torch==2.13.0'
if ! nvidia-smi >/dev/null 2>&1; then
    pip install --dry-run --ignore-installed --report .venv/torch.json "$torch"
    if grep -q '"name": *"nvidia-' .venv/torch.json; then
        pip install --index-url https://download.pytorch.org/whl/cpu "$torch"
    fi
fi
pip install "$torch"

pip install --editable '.[dev]'
# Without its dependencies: they include the obsolete `dataclasses` backport, which shadows the standard library inside
# Prefect's server. The real ones are listed in pyproject.toml.
pip install --no-deps 'img2dataset==1.47.0'
if .venv/bin/python -m pip show -qq dataclasses 2>/dev/null; then
    pip uninstall --yes dataclasses
fi
echo "$state" >"$stamp"
echo "set-up: done"
