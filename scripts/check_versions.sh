#!/usr/bin/env bash
# Run the tests on the PyTorch and Python versions that pyproject.toml allows; print a table at the end.
#
#     scripts/check_versions.sh                                   # the fast tests, minutes each
#     scripts/check_versions.sh tests/models -k dac               # with these arguments of pytest
#     CPU='torch --extra-index-url INDEX' scripts/check_versions.sh
#
# Environment variables:
#   PYTHONS  interpreters; default: those of python3.10 ... python3.14 on PATH
#   OLDEST   pip requirement of the oldest PyTorch; default: the lower bound in pyproject.toml
#   NEWEST   pip requirement of the newest PyTorch; default: torch
#   CPU      pip requirement of a CPU-only build; default: none, since pip's index may not have one
#   FOLDER   folder of virtual environments (several GB each) and logs; default: temporary, removed
# An empty OLDEST or NEWEST skips that row. PIP_* variables are pip's own. The oldest and the CPU-only
# build run only on the first interpreter, the newest on all.
set -uo pipefail
cd "$(dirname "$0")/.."

OLDEST=${OLDEST-$(sed -n 's/^ *"torch>=\([0-9.]*\)".*/torch==\1.*/p' pyproject.toml)}
NEWEST=${NEWEST-torch}
CPU=${CPU-}
[ $# -gt 0 ] || set -- -m 'not slow' --ignore=tests/integration --ignore=tests/test_readme.py -n auto
if [ -z "${PYTHONS-}" ]; then
    PYTHONS=
    for version in 3.10 3.11 3.12 3.13 3.14; do
        "python$version" -c '' 2> /dev/null && PYTHONS+=" python$version"
    done
fi
if [ -z "${FOLDER-}" ]; then
    FOLDER=$(mktemp -d)
    trap 'rm -rf "$FOLDER"' EXIT
fi
mkdir -p "$FOLDER"

failed=0
table=$(printf '%-9s %-8s %-16s %7s %7s %7s' python case torch passed failed skipped)

count() {  # WORD: its number in the last line of pytest's report
    tail -1 "$log" | grep -oE "[0-9]+ $1" | grep -oE '[0-9]+' || echo 0
}

check() {  # PYTHON CASE REQUIREMENT PYTEST-ARGUMENTS: install as the README says, run the tests
    local python=$1 case=$2 requirement=$3 place log version torch
    shift 3
    version=$("$python" -c 'import platform; print(platform.python_version())') || { failed=1; return; }
    place=$FOLDER/$version-$case log=$place.log
    echo "python $version, $case: $requirement" >&2
    # shellcheck disable=SC2086 - the requirement may contain options of pip
    if ! { "$python" -m venv "$place" && "$place/bin/pip" install -q -e '.[dev]' $requirement; } > "$log" 2>&1; then
        tail -3 "$log" >&2
        table+=$(printf '\n%-9s %-8s %s' "$version" "$case" "cannot be installed: $requirement")
        failed=1
        return
    fi
    if ! PATH=$place/bin:$PATH "$place/bin/python" -m pytest -q "$@" >> "$log" 2>&1; then
        grep -E '^(FAILED|ERROR)' "$log" >&2
        failed=1
    fi
    torch=$("$place/bin/python" -c 'import torch; print(torch.__version__)')
    table+=$(printf '\n%-9s %-8s %-16s %7s %7s %7s' "$version" "$case" "$torch" \
        "$(count passed)" "$(($(count failed) + $(count error)))" "$(count skipped)")
}

first=1
for python in $PYTHONS; do
    if [ $first = 1 ]; then
        [ -z "$OLDEST" ] || check "$python" oldest "$OLDEST" "$@"
        [ -z "$CPU" ] || check "$python" cpu "$CPU" "$@"
        first=0
    fi
    [ -z "$NEWEST" ] || check "$python" newest "$NEWEST" "$@"
done
echo "$table"
exit $failed
