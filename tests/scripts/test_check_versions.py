"""The script's table, with a fake interpreter."""

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / 'scripts' / 'check_versions.sh'
PYTHON = """#!/bin/sh
case "$*" in
    *python_version*) echo 3.99.1 ;;
    '-m venv '*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"
        printf '#!/bin/sh\\necho "$@" > "%s/asked"\\n' "$3" > "$3/bin/pip"
        printf 'case "$*" in *9.9*) exit 1; esac\\n' >> "$3/bin/pip"
        chmod +x "$3/bin/pip" ;;
    *pytest*) echo "$@" > "$(dirname "$0")/../tests"
        case "$0" in *cpu*) echo '7 passed, 2 skipped in 1.00s (0:00:01)' ;;
            *) echo 'FAILED tests/x.py::y'; echo '1 failed, 6 passed, 3 errors in 1.00s'
                exit 1 ;; esac ;;
    *'torch.__version__'*) echo 2.0.0+"$(basename "$(dirname "$(dirname "$0")")")" ;;
esac
"""


def check(folder, *arguments, **environment):
    python = folder / 'pretender'
    python.write_text(PYTHON)
    python.chmod(0o755)
    return subprocess.run(
        [SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={
            'PATH': os.environ['PATH'],
            'PYTHONS': str(python),
            'FOLDER': str(folder / 'kept'),
            **environment,
        },
    )


def test_every_case_has_a_row(tmp_path):
    done = check(tmp_path, CPU='torch==9.1 --pre', OLDEST='torch==9.9')
    assert [line.split() for line in done.stdout.splitlines()] == [
        ['python', 'case', 'torch', 'passed', 'failed', 'skipped'],
        ['3.99.1', 'oldest', 'cannot', 'be', 'installed:', 'torch==9.9'],
        ['3.99.1', 'cpu', '2.0.0+3.99.1-cpu', '7', '0', '2'],
        ['3.99.1', 'newest', '2.0.0+3.99.1-newest', '6', '4', '0'],
    ]
    assert done.returncode == 1
    assert 'FAILED tests/x.py::y' in done.stderr
    asked = (tmp_path / 'kept' / '3.99.1-cpu' / 'asked').read_text()
    assert asked == 'install -q -e .[dev] torch==9.1 --pre\n'
    assert 'not slow' in (tmp_path / 'kept' / '3.99.1-cpu' / 'tests').read_text()


def test_what_passes_is_a_success_and_arguments_are_those_of_pytest(tmp_path):
    done = check(tmp_path, 'tests/models', '-k', 'dac', CPU='torch', OLDEST='', NEWEST='')
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2
    assert (
        tmp_path / 'kept' / '3.99.1-cpu' / 'tests'
    ).read_text() == '-m pytest -q tests/models -k dac\n'


def test_the_oldest_is_the_bound_of_the_package(tmp_path):
    check(tmp_path, NEWEST='')
    assert (
        tmp_path / 'kept' / '3.99.1-oldest' / 'asked'
    ).read_text() == 'install -q -e .[dev] torch==2.8.*\n'
