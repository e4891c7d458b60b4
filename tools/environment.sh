#!/bin/sh
# Makes .venv hold exactly what requirements/NAME.txt pins, and this project itself. Usage: environment.sh run|dev
#
# A stamp in .venv says which files made it, so that nothing is done when nothing changed (milliseconds), and all is
# done again when a requirement changed, the folder was moved, or the last attempt was interrupted. dev contains run.
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

# A .venv that runs, with the Python asked for, and was made in this folder is completed; any other is made anew.
make_environment() {
    if is_usable && [ "$(cat .venv/drpo-folder 2>/dev/null || echo "$PWD")" = "$PWD" ] &&
        .venv/bin/python -m pip --version >/dev/null 2>&1; then
        return
    fi
    python=$(find_python)
    echo "Making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv || die "Making .venv failed. On Debian and Ubuntu: apt-get install python3-venv"
    pwd >.venv/drpo-folder
}

# The pinned list is complete, so pip has nothing to resolve (--no-deps) and every file has a hash.
install() {
    echo "Installing requirements/$name.txt into .venv (once; a few hundred MB)"
    rm -f .venv/drpo-*.stamp
    .venv/bin/python -m pip install --disable-pip-version-check --no-deps --require-hashes -r "requirements/$name.txt"
    .venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
    description "$name" >"$(stamp "$name")"
}

is_ready && exit 0
make_environment
install
