#!/bin/sh
# Makes .venv hold exactly what requirements/NAME.txt pins, and this project itself. Usage: environment.sh run|dev
#
# A stamp in .venv says which files made it, so that nothing is done when nothing changed (milliseconds), and all is
# done again when a requirement changed, the folder was moved, or the last attempt was interrupted. dev contains run.
# This script finds Python and sees whether anything is to be done; tools/environment.py does it.
set -eu

name=$1
cd "$(dirname "$0")/.."
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV

die() {
    echo "$*" >&2
    exit 1
}

# What .venv is made of, in one line: it changes when any of it does.
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

is_the_python_asked_for() {
    [ -z "${PYTHON:-}" ] || [ "$("$PYTHON" --version 2>&1)" = "$(.venv/bin/python --version 2>&1)" ]
}

is_usable() {
    runs .venv/bin/python && is_the_python_asked_for
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

# The Python that .venv was made from, where .venv runs and is of the Python asked for; else the one that is found.
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
