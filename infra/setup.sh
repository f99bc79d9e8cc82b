#!/usr/bin/env bash
# Make .venv hold what infra/locks says. Returns at once when nothing changed since the last time.
# Needs Linux, Python 3.11, 3.12 or 3.13, git and a C compiler. These variables are optional:
#   PYTHON=/path/to/python   the interpreter, in place of the first suitable one on the path
#   TORCH=cpu or TORCH=cuda  the build of torch, in place of the one that suits this machine
#   INSTALLER=pip            do not use uv, which installs the same faster
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "set-up: $*" >&2
    exit 1
}
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
is_usable() { [[ $(version_of "$1") =~ ^3\.1[123]$ ]]; }

if [ -L .venv ]; then
    exit 0 # the environment of another checkout, which keeps it up to date
fi
case ${TORCH:-} in '' | cpu | cuda) ;; *) fail "TORCH=$TORCH: want cpu or cuda" ;; esac
if [ -n "${PYTHON:-}" ] && ! is_usable "$PYTHON"; then
    fail "PYTHON=$PYTHON is $(version_of "$PYTHON" || echo 'not a Python that runs'); want Python 3.11, 3.12 or 3.13"
fi

# Of two set-ups in one checkout, the second waits for the first.
exec {this_script}<infra/setup.sh
flock "$this_script"

# What is installed: where, by which Python, with which torch, and from what. An unfinished installation has no stamp.
stamp=.venv/.complete
place='' version='' torch='' installed=''
if [ -f "$stamp" ] && [ -x .venv/bin/python ]; then
    { read -r place && read -r version && read -r torch && read -r installed; } <"$stamp" || place=
fi
state=$(cat pyproject.toml infra/setup.sh infra/locks/*.txt | cksum)
anew=
if [ "$place" != "$PWD" ] || [ "${TORCH:-$torch}" != "$torch" ] ||
    { [ -n "${PYTHON:-}" ] && [ "$(version_of "$PYTHON")" != "$version" ]; }; then
    anew=yes
elif [ "$installed" = "$state" ]; then
    exit 0
fi

rm -f "$stamp"
if [ -n "$anew" ]; then
    for python in "${PYTHON:-python3}" python3.13 python3.12 python3.11 ''; do
        is_usable "$python" && break
    done
    [ -n "$python" ] || fail "no Python 3.11, 3.12 or 3.13 found; install one, or name it: make setup PYTHON=/path/to/python3.11"
    version=$(version_of "$python")
    torch=${TORCH:-$(nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)}
    # Debian ships Python without the part of venv that installs pip; any pip can stand in for it.
    "$python" -m venv --clear .venv >/dev/null 2>&1 ||
        { "$python" -m venv --clear --without-pip .venv && "$python" -m pip --python .venv/bin/python install --quiet pip; } ||
        fail "this Python cannot make an environment with pip in it; install its venv package (Debian: python3-venv)"
    echo "set-up: installing into .venv with Python $version; this takes a few minutes once"
else
    echo "set-up: installing what changed"
fi

pip() { .venv/bin/python -m pip -qq --no-input "$@"; } # -qq: errors only
# Every dependency of what is locked is locked too, so nothing is left to resolve: hence --no-deps.
install() {
    local locked=(--no-deps --require-hashes --requirement "$1")
    if [ "${INSTALLER:-uv}" = uv ] && .venv/bin/python infra/run_uv.py pip install --quiet --compile-bytecode \
        --build-constraints infra/locks/packages.txt "${locked[@]}"; then
        return
    fi
    pip install "${locked[@]}"
}

if [ "${INSTALLER:-uv}" = uv ]; then
    pip install --require-hashes --only-binary :all: --requirement infra/locks/tools.txt ||
        echo "set-up: uv cannot be had here; pip installs everything" >&2
fi
# torch by itself: on PyPI its Linux builds are for CUDA, with gigabytes of libraries. A CPU build is taken from where
# pip is configured to look, or else from where torch publishes it.
if [ "$torch" = cuda ]; then
    install infra/locks/torch-cuda.txt
else
    locked=(--no-deps --requirement infra/locks/torch-cpu.txt)
    pip install "${locked[@]}" 2>/dev/null ||
        pip install --index-url https://download.pytorch.org/whl/cpu "${locked[@]}" ||
        fail "no CPU build of torch found for Python $version; name another Python, or take the large build: TORCH=cuda"
fi
install infra/locks/packages.txt
pip install --no-deps --no-build-isolation --editable .
.venv/bin/python infra/lock.py check
printf '%s\n' "$PWD" "$version" "$torch" "$state" >"$stamp"
echo "set-up: done"
