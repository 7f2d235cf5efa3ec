from pathlib import Path

import pytest
import torch
import yaml
from tiny_codecs import tiny_codec

from audiocodec.cli.main import main as audiocodec
from audiocodec.models import CompressionModel
from audiocodec.run import checkpoint
from audiocodec.utils import config

MODEL = tiny_codec(n_q=2, kmeans_init=False, n_residual_layers=1, lstm=0)


def run(*argv):
    return audiocodec(['export', *map(str, argv)])


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """An experiment that has been trained, in small."""
    monkeypatch.setenv('AUDIOCODEC_DORA_DIR', str(tmp_path / 'outputs'))
    folder = tmp_path / 'outputs' / 'xps' / '0a1b2c3d'
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = config.build(MODEL).eval()
    checkpoint.save(
        {
            'format': checkpoint.CHECKPOINT_FORMAT,
            'version': 1,
            'sig': '0a1b2c3d',
            'epoch': 4,
            'config': yaml.safe_dump({'model': MODEL}),
            'state': {'model': model.state_dict()},
        },
        folder / 'checkpoint.th',
    )
    return model, folder


@pytest.mark.slow
def test_a_signature_becomes_a_compact_file(experiment, tmp_path, capsys):
    model, folder = experiment
    wav = torch.randn(1, 1, 1000)
    for index, source in enumerate(
        ['0a1b2c3d', '//sig/0a1b2c3d', folder, folder / 'checkpoint.th']
    ):
        assert run(source, tmp_path / f'{index}.bin') == 0
        said = capsys.readouterr().out
        assert 'parity of compact with experiment 0a1b2c3d, epoch 4: passed' in said
        assert 'waveform: largest difference 0.0e+00' in said
        loaded = CompressionModel.get_pretrained(str(tmp_path / f'{index}.bin'))
        assert torch.equal(loaded(wav).codes, model(wav).codes)


def test_the_type_of_the_weights_may_be_given(experiment, tmp_path, capsys):
    model, _ = experiment
    audio = Path(__file__).parents[3] / 'dataset' / 'example' / 'valid' / 'speech_ru_016.ogg'
    options = ('--dtype', 'float16', '--audio', audio)
    assert run('0a1b2c3d', tmp_path / 'half.safetensors', *options) == 0
    assert 'note: compared with the weights rounded to float16.' in capsys.readouterr().out
    rounded = {name: value.half().float() for name, value in model.state_dict().items()}
    loaded = CompressionModel.get_pretrained(str(tmp_path / 'half.safetensors')).state_dict()
    assert all(torch.equal(loaded[name], rounded[name]) for name in loaded if 'conv' in name)


def test_the_sound_and_the_format_may_be_given(experiment, tmp_path, capsys):
    audio = Path(__file__).parents[3] / 'dataset' / 'example' / 'valid' / 'speech_ru_016.ogg'
    assert run('0a1b2c3d', tmp_path / 'model.bin', '--format', 'audiocraft', '--audio', audio) == 0
    said = capsys.readouterr().out
    assert 'parity of audiocraft' in said
    assert 'audio: given: speech_ru_016.ogg' in said
    assert torch.load(tmp_path / 'model.bin', weights_only=True)['exported'] is True


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (
            ['0a1b2c3d', 'out', '--format', 'hf'],
            "error: the format 'hf' does not support this model: lstm=0",
        ),
        (
            ['0a1b2c3d', 'out.bin', '--stream', '4'],
            'error: stream_frames=4 is for the formats onnx and torch only, not for compact',
        ),
        (
            ['0a1b2c3d', 'out', '--format', 'onnx', '--dtype', 'float16'],
            'error: dtype=float16 is for the format compact only, not for onnx',
        ),
        (
            ['0a1b2c3d', 'out', '--format', 'torch', '--stream', '4'],
            'error: this model cannot stream as a program: its encoder or decoder is not causal',
        ),
        (['deadbeef', 'out.bin'], "error: 'deadbeef': no such file or folder"),
        (['0a1b2c3d', '/proc/out.bin'], 'error: /proc/out.bin could not be written'),
        (['//pretrained/nothing here', 'out.bin'], "error: 'nothing here': no such file or folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    experiment, tmp_path, monkeypatch, capsys, argv, message
):
    monkeypatch.chdir(tmp_path)
    assert run(*argv) == 1
    said = capsys.readouterr()
    assert said.out == ''
    assert said.err.startswith(message)
    assert not (tmp_path / argv[1]).exists()


def test_unknown_formats_are_listed(capsys):
    with pytest.raises(SystemExit):
        run('0a1b2c3d', 'out', '--format', 'tflite')
    assert (
        'choose from compact, bundle, audiocraft, descript, hf, onnx, snac, torch'
        in capsys.readouterr().err.replace("'", '')
    )
