"""The command itself: help, imports, exit codes, and the scripts of the same names."""

import subprocess
import sys
from pathlib import Path

import forked
import pytest
import soundfile

from audiocodec import __version__
from audiocodec.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]
SCRIPTS = {
    'doctor': 'doctor',
    'export': 'export',
    'make_manifest': 'manifest',
    'make_shards': 'shards',
    'codebook_usage': 'usage',
}


def run(*command):
    """Run Python in a new process, which has imported nothing."""
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)


def test_the_help_lists_every_command_and_imports_none():
    code = (
        'import sys\nfrom audiocodec.cli.main import main\n'
        'try:\n    main(["--help"])\nexcept SystemExit as end:\n    assert not end.code\n'
        'print([name for name in ("torch", "numpy", "soundfile") if name in sys.modules])'
    )
    printed = run('-c', code).stdout
    assert printed.endswith('[]\n')
    for name, (_, text) in COMMANDS.items():
        assert f'    {name} ' in printed
        assert text.split()[0] in printed


@pytest.mark.parametrize('name', COMMANDS)
def test_each_command_explains_its_arguments(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, '--help'])
    assert ended.value.code == 0
    printed = ' '.join(capsys.readouterr().out.split())
    assert printed.startswith(f'usage: audiocodec {name} ')
    assert COMMANDS[name][1][1:] in printed


def test_version_and_mistakes(capsys):
    with pytest.raises(SystemExit) as ended:
        main(['--version'])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f'audiocodec {__version__}\n'
    for argv, message in (([], 'COMMAND'), (['doktor'], "'doctor'")):
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize('script', SCRIPTS)
def test_the_scripts_are_the_commands(script):
    ours = forked.run([ROOT / 'scripts' / f'{script}.py', '--help']).stdout
    command = forked.run(['-m', 'audiocodec', SCRIPTS[script], '--help']).stdout
    assert ours == command
    assert ours.startswith(f'usage: audiocodec {SCRIPTS[script]} ')


@pytest.mark.slow
def test_a_pipe_that_has_read_enough_is_not_an_error(tmp_path):
    soundfile.write(tmp_path / 'a.wav', [0.0] * 800, 8000)
    command = f'{sys.executable} -m audiocodec doctor {tmp_path} | true'
    done = subprocess.run(['bash', '-c', command], capture_output=True, text=True)
    assert 'Traceback' not in done.stderr
    assert 'BrokenPipe' not in done.stderr
