#!/bin/sh
# Installs the packages that requirements/NAME.txt pins, and this project, into .venv. Usage: environment.sh run|dev
#
# A stamp in .venv names the requirements that it was made from. The script takes milliseconds if nothing changed. It
# installs again if a requirement changed, the folder was moved, or the last attempt was interrupted. The requirements
# dev contain the requirements run. This script finds Python and checks whether there is work to do.
# tools/environment.py does the work.
set -eu

name=$1
unset CDPATH # `cd` would search the folders of CDPATH first
cd "$(dirname "$0")/.."
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV

die() {
    echo "$*" >&2
    exit 1
}

# One line that changes when the requirements, pyproject.toml or the project's folder change.
description() {
    echo "$(cat "requirements/$1.txt" pyproject.toml | cksum) $PWD"
}

stamp() {
    echo ".venv/drpo-$1.stamp"
}

is_made_of() {
    [ -f "$(stamp "$1")" ] && [ "$(cat "$(stamp "$1")")" = "$(description "$1")" ]
}

runs() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

is_requested_python() {
    [ -z "${PYTHON:-}" ] || [ "$("$PYTHON" --version 2>&1)" = "$(.venv/bin/python --version 2>&1)" ]
}

is_usable() {
    runs .venv/bin/python && is_requested_python
}

is_ready() {
    { is_made_of dev || { [ "$name" = run ] && is_made_of run; }; } && [ -x .venv/bin/drpo-proxy ] && is_usable
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        runs "$PYTHON" || die "PYTHON=$PYTHON is not a Python of version 3.11 or newer that runs."
        echo "$PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.13 python3.14 python3 python; do
        if runs "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    die "Python 3.11 or newer is needed and was not found. Install it, or say where it is: make PYTHON=/path/to/python3.11"
}

# The Python that .venv was made from, if .venv is usable; otherwise a Python on the PATH.
python() {
    if is_usable; then
        .venv/bin/python -c 'import sys; print(sys._base_executable)'
    else
        find_python
    fi
}

is_ready && exit 0
python=$(python)
exec "$python" -m tools.environment "$name" "$(description run)" "$(description dev)"
