from pathlib import Path

import forked
import numpy as np
import pytest
import soundfile

from audiocodec.cli.main import main as audiocodec
from audiocodec.data import load_manifest


def main(arguments):
    return audiocodec(['manifest', *arguments])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'audio' / 'deep').mkdir(parents=True)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 36000)
    soundfile.write(tmp_path / 'audio' / 'deep' / 'a.wav', noise, 24000)
    soundfile.write(tmp_path / 'audio' / 'b.flac', noise, 16000)
    return tmp_path / 'audio'


@pytest.mark.slow
def test_command_line(folder):
    (folder / 'broken.wav').write_text('no audio')
    out = folder / 'm.jsonl.gz'
    run = forked.run(['-m', 'audiocodec', 'manifest', folder, out, '--workers', '2'])
    assert run.returncode == 0, run.stderr
    assert (
        run.stdout
        == f'{out}: 2 files, 0.00 h, sample rates: 16000 Hz (1), 24000 Hz (1), channels: 1 (2)\n'
    )
    assert '1 of 3 audio files left out: broken.wav: cannot be read as audio' in run.stderr
    metas = load_manifest(out)
    assert [(Path(meta.path).name, meta.duration, meta.sample_rate) for meta in metas] == [
        ('b.flac', 2.25, 16000),
        ('a.wav', 1.5, 24000),
    ]
    assert metas[0].amplitude is None


def test_options(folder, capsys):
    assert (
        main(
            [
                str(folder),
                str(folder / 'm.jsonl'),
                '--amplitude',
                '--absolute',
                '--min_duration',
                '2',
            ]
        )
        == 0
    )
    assert str(folder / 'b.flac') in (folder / 'm.jsonl').read_text()
    (meta,) = load_manifest(folder / 'm.jsonl')
    assert meta.amplitude == pytest.approx(0.5, abs=1e-3)


def test_mistakes_end_with_one_line_and_exit_code_1(tmp_path, capsys):
    assert main([str(tmp_path), str(tmp_path / 'm.jsonl')]) == 1
    assert capsys.readouterr().err.startswith(f'error: {tmp_path}: no audio in this folder')
    assert main([str(tmp_path / 'nowhere'), str(tmp_path / 'm.jsonl')]) == 1
    assert capsys.readouterr().err == f'error: {tmp_path}/nowhere: no such folder\n'
    assert not (tmp_path / 'm.jsonl').exists()


def test_a_list_becomes_a_manifest(folder, tmp_path, capsys):
    (tmp_path / 'list.txt').write_text('audio/b.flac\naudio/deep/a.wav\n')
    out = tmp_path / 'm.jsonl'
    assert main([str(tmp_path / 'list.txt'), str(out), '--min_duration', '2']) == 0
    (meta,) = load_manifest(out)
    assert (meta.path, meta.duration) == (str(folder / 'b.flac'), 2.25)
    assert main([str(tmp_path / 'list.txt'), str(out), '--amplitude']) == 1
    assert '--amplitude measures folders' in capsys.readouterr().err
