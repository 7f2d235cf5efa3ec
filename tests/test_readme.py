"""Every snippet of the README runs, in order; trainings are shortened."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import forked
import pytest

from audiocodec import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text()
# in front of what the README sets itself, so that the README wins
SHORT = [
    'optim.updates_per_epoch=2',
    'optim.epochs=2',
    'dataset.batch_size=2',
    'dataset.segment_duration=0.5',
    'dataset.num_workers=0',
    'dataset.valid.num_samples=2',
    'dataset.evaluate.num_samples=2',
    'dataset.generate.num_samples=1',
    'dataset.generate.batch_size=1',
    'dataset.generate.segment_duration=0.5',
]


def blocks(language):
    return re.findall(rf'^```{language}\n(.*?)^```', README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks('bash') for line in block.splitlines()]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with the user's audio, the signature of the first run, and what stands for both in
    the README.
    """
    folder = tmp_path_factory.mktemp('readme')
    (folder / 'audio').mkdir()
    for index, path in enumerate(sorted((ROOT / 'dataset/example/train').glob('*.ogg'))[:8]):
        shutil.copy(path, folder / 'audio' / f'{index}{path.suffix}')
    return folder


def environment(place):
    # as in an activated environment
    binaries = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    return {
        **os.environ,
        'PATH': binaries,
        'AUDIOCODEC_DORA_DIR': str(place / 'outputs'),
        'XDG_CACHE_HOME': str(place / 'cache'),
        'OMP_NUM_THREADS': '1',
    }


def filled_in(text, place):
    sig = train.main.get_xp(
        ['solver=compression/debug', *SHORT, 'optim.lr=1e-3', 'seanet.n_filters=8']
    ).sig
    return (
        text.replace('/path/to/audio', str(place / 'audio'))
        .replace('manifests/', f'{place}/manifests/')
        .replace('SIGNATURE', sig)
        .replace('--out results', f'--out {place}/results')
        .replace('report results', f'report {place}/results')
        .replace('--out report', f'--out {place}/report')
        .replace(' speech.', f' {place}/speech.')
        .replace(' tokens --', f' {place}/tokens --')
    )


def shortened(command):
    command = command.rsplit('pip install -e . && ')[-1]
    match = re.match(r'(dora run (?:-d \S+ )?)(solver=.*)', command)
    if match is None:
        return command
    head = match[1] + ('-- ' if '-d' in match[1] else '')
    return f'{head}{" ".join(SHORT)} {match[2]}'


def test_the_two_commands_are_one_line_each_and_complete():
    install = 'python3 -m venv .venv && . .venv/bin/activate && pip install -e '
    assert COMMANDS[0] == f'{install}. && dora run solver=compression/debug'
    assert COMMANDS[1] == f"{install}'.[dev]' && pytest -n auto"


@pytest.mark.parametrize(
    'number',
    [index for index in range(len(COMMANDS)) if index != 1],
    ids=lambda index: re.sub(r'\W+', '-', COMMANDS[index][-50:]),
)
def test_command(number, place):
    command = filled_in(shortened(COMMANDS[number]), place)
    if number == 0:  # as installed
        command = f'{command} && true'
    done = forked.shell(command, ROOT, environment(place), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    if 'show=true' in command:
        assert '14.68 M parameters' in done.stdout
        assert re.search(r'msstftd +0\.47 M parameters \(discriminator\)', done.stdout)
        assert re.search(r'frame rate +75 Hz', done.stdout)
        assert re.search(r'latency +13\.33 ms', done.stdout)
        assert '1.5 (2)' in done.stdout
        assert '24 (32)' in done.stdout
    if 'audiocodec manifest' in command:
        assert (place / 'manifests' / 'mine.jsonl.gz').exists()
    if 'optim.epochs=3' in command:
        assert 'resuming at epoch 3' in done.stderr
    if 'audiocodec report' in command:
        assert (place / 'report' / 'index.html').exists()
    if 'generate.path=again' in command:
        assert list(place.rglob('again/*/*.reconstruction.wav'))


def test_python(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    for name, value in environment(place).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(train.main.dora, 'dir', place / 'outputs')
    scope = {}
    for block in blocks('python'):
        exec(compile(filled_in(block, place), 'README.md', 'exec'), scope)
    printed = capsys.readouterr().out
    assert '1.5 kbps 75.0 Hz 1024' in printed
    assert scope['codes'].shape == (1, 8, 225)
    assert (place / 'decoded.wav').exists()
    assert (place / 'my_codec.safetensors').exists()
    history = json.loads((scope['xp'].folder / 'history.json').read_text())
    assert len(history) == 3
