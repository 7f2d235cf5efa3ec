"""`audiocodec tables`, `encode` and `decode`: one chain of commands on example recordings."""

import re
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from tiny_codecs import tiny_codec

from audiocodec import bitstream
from audiocodec.cli.main import main
from audiocodec.data import write_audio
from audiocodec.data.audio import read_segment
from audiocodec.models import CompressionModel
from audiocodec.run import checkpoint
from audiocodec.utils import config

AUDIO = Path(__file__).parents[3] / 'dataset' / 'example' / 'valid'


def save_model(path, seed=0):
    torch.manual_seed(seed)
    node = tiny_codec(kmeans_init=False, causal=True, lstm=0)
    model = config.build(node).eval()
    latents = model.encoder(0.3 * torch.randn(1, 1, 40 * 160))
    books = model.quantizer.codebooks.embed
    books.normal_().mul_(latents.std(dim=(0, 2))).add_(latents.mean(dim=(0, 2)))
    content = {'format': checkpoint.MODEL_FORMAT, 'version': 1, 'state': model.state_dict()}
    checkpoint.save({**content, 'config': yaml.safe_dump({'model': node})}, path)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with a model, and a recording of 2.3 s at another rate."""
    folder = tmp_path_factory.mktemp('bitstream')
    save_model(folder / 'model.th')
    wav = read_segment(next(AUDIO.glob('speech*.flac')), 0, 48000, 24000, 1)
    write_audio(folder / 'in.wav', torch.cat((wav, wav[:, :7200]), dim=1), 24000)
    return folder


def run(folder, *argv):
    names = [str(folder / one) if re.search(r'\.[a-z]+3?$', str(one)) else str(one) for one in argv]
    return main(names)


def expected(folder, kbps):
    model = CompressionModel.get_pretrained(str(folder / 'model.th'))
    model.set_bandwidth(kbps)
    wav = read_segment(folder / 'in.wav', 0, -1, 8000, 1)
    return model.decode(*model.encode(wav[None]))[0, :, : wav.shape[1]]


def decoded(path):
    wav, rate = soundfile.read(path, dtype='float32', always_2d=True)
    assert rate == 8000
    return torch.from_numpy(wav.T)


def test_fixed_width(folder, capsys):
    assert run(folder, 'encode', 'in.wav', 'a.acs', '--model', 'model.th', '--kbps', '0.3') == 0
    size = (folder / 'a.acs').stat().st_size
    assert f'2.30 s, {size} bytes' in capsys.readouterr().out
    assert run(folder, 'decode', 'a.acs', 'a.wav') == 0
    assert '2.30 s, 0.00 s of it lost (complete)' in capsys.readouterr().out
    found, wanted = decoded(folder / 'a.wav'), expected(folder, 0.3)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-4  # 16 bits


def test_a_damaged_stream_has_exit_code_1(folder, capsys):
    run(folder, 'encode', 'in.wav', 'b.acs', '--model', 'model.th', '--packet', '0.5')
    data = bytearray((folder / 'b.acs').read_bytes())
    place = data.find(b'\xc5P', data.find(b'\xc5P') + 2)  # the second packet
    data[place + 20] ^= 1
    (folder / 'b.acs').write_bytes(data)
    capsys.readouterr()
    assert run(folder, 'decode', 'b.acs', 'b.wav') == 1
    assert re.search(r'2\.30 s, 0\.50 s of it lost \(lost packets: 1', capsys.readouterr().out)
    found = decoded(folder / 'b.wav')
    assert found[:, 4100:7900].abs().max() == 0
    assert (found[:, :3900] - expected(folder, 0.45)[:, :3900]).abs().max() < 1e-4


@pytest.fixture(scope='module')
def tables(folder):
    assert run(folder, 'tables', 'model.th', AUDIO, '--hours', '0.06') == 0
    return folder / 'model.tables.safetensors'


def test_tables_save_bits(folder, tables, capsys):
    assert tables.is_file()
    for name, option in (('c.acs', []), ('d.acs', ['--tables', 'none'])):
        assert run(folder, 'encode', 'in.wav', name, '--model', 'model.th', *option) == 0
    sizes = [(folder / name).stat().st_size for name in ('c.acs', 'd.acs')]
    assert sizes[0] < sizes[1]
    for name in ('c', 'd'):
        assert run(folder, 'decode', f'{name}.acs', f'{name}.wav') == 0
    assert torch.equal(decoded(folder / 'c.wav'), decoded(folder / 'd.wav'))


def test_tables_of_a_file(folder, capsys):
    """Its rates are not those of other audio, which is said."""
    options = ('--out', 'one.safetensors', '--hours')
    assert run(folder, 'tables', 'model.th', 'in.wav', *options, '0.12') == 0
    assert 'rates on the same file: not held out' in capsys.readouterr().out
    for hours, message in (
        ('0.0001', 'frames are too few to fit tables, which need 2048'),
        ('0', '--hours 0.0: expected more than 0'),
        ('nan', '--hours nan: expected more than 0'),
    ):
        assert run(folder, 'tables', 'model.th', 'in.wav', *options, hours) == 1
        assert message in capsys.readouterr().err


def test_other_models_and_tables_are_refused(folder, tables, capsys):
    save_model(folder / 'other.th', seed=1)
    run(folder, 'encode', 'in.wav', 'e.acs', '--model', 'model.th')
    capsys.readouterr()
    assert run(folder, 'decode', 'e.acs', 'e.wav', '--model', 'other.th') == 1
    assert 'the stream was encoded by the model' in capsys.readouterr().err
    wrong = ('encode', 'in.wav', 'f.acs', '--model', 'other.th', '--tables', tables.name)
    assert run(folder, *wrong) == 1
    assert 'the tables were fitted to the model' in capsys.readouterr().err
    away = tables.rename(folder / 'away.safetensors')
    assert run(folder, 'decode', 'e.acs', 'e.wav') == 1
    assert 'none were given' in capsys.readouterr().err
    assert run(folder, 'decode', 'e.acs', 'e.wav', '--tables', away.name) == 0
    away.rename(tables)
    assert not (folder / 'f.acs').exists()


def test_a_stream_cannot_make_the_decoder_download(folder, capsys):
    model = CompressionModel.get_pretrained(str(folder / 'model.th'))
    header = bitstream.describe(model, name='someone/else')
    with (folder / 'g.acs').open('wb') as file:
        writer = bitstream.BitstreamWriter(file, header)
        bitstream.encode(model, torch.zeros(1, 800), writer)
    assert run(folder, 'decode', 'g.acs', 'g.wav') == 1
    assert "model 'someone/else', which is not here: use --model" in capsys.readouterr().err


def test_the_model_of_the_package_is_named_in_the_stream(folder, capsys):
    assert run(folder, 'encode', 'in.wav', 'p.acs', '--model', 'audiocodec/small_24khz') == 0
    assert run(folder, 'decode', 'p.acs', 'p.wav') == 0
    assert '2.30 s, 0.00 s of it lost (complete)' in capsys.readouterr().out
    model = CompressionModel.get_pretrained('audiocodec/small_24khz')
    wanted = model(read_segment(folder / 'in.wav', 0, -1, 24000, 1)[None]).wav[0]
    found = read_segment(folder / 'p.wav', 0, -1, 24000, 1)
    assert found.shape == wanted.shape
    assert (found - wanted).square().mean() < 1e-3 * wanted.square().mean()


def test_live(folder, capsys):
    """The file is read in parts of two seconds."""
    arguments = ('in.wav', 'h.acs', '--model', 'model.th', '--tables', 'none')
    assert run(folder, 'encode', *arguments, '--stream') == 0
    live = (folder / 'h.acs').read_bytes()
    assert run(folder, 'encode', *arguments) == 0
    assert (folder / 'h.acs').read_bytes() == live


def test_what_cannot_be_encoded_leaves_the_output_as_it_was(folder, capsys):
    """Also with --stream, which writes while it reads."""
    soundfile.write(folder / 'nan.wav', [0.0, float('nan')] * 50, 8000, subtype='FLOAT')
    write_audio(folder / 'tiny.wav', torch.zeros(1, 1), 48000)  # no sample at 8 kHz
    before = (folder / 'in.wav').read_bytes()
    for stream in ([], ['--stream']):
        for name, message in (
            ('nan.wav', 'contains NaN'),
            ('nothing.wav', 'no such file'),
            ('tiny.wav', 'cannot read from 0.00 s' if not stream else 'has no sample at 8000 Hz'),
        ):
            (folder / 'old.acs').write_bytes(b'old')
            assert run(folder, 'encode', name, 'old.acs', '--model', 'model.th', *stream) == 1
            assert message in capsys.readouterr().err
            assert (folder / 'old.acs').read_bytes() == b'old'
        assert run(folder, 'encode', 'in.wav', 'in.wav', '--model', 'model.th', *stream) == 1
        assert 'in.wav is the file to encode' in capsys.readouterr().err
        assert (folder / 'in.wav').read_bytes() == before
        assert run(folder, 'encode', 'in.wav', str(folder), '--model', 'model.th', *stream) == 1
        assert 'is a folder: give a file' in capsys.readouterr().err


def test_missing_and_foreign_files(folder, capsys):
    assert run(folder, 'decode', 'nothing.acs', 'x.wav') == 1
    assert 'nothing.acs: no such file' in capsys.readouterr().err
    assert run(folder, 'decode', 'in.wav', 'x.wav') == 1
    assert 'in.wav: no header of a stream' in capsys.readouterr().err
