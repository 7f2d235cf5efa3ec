import json
import re

import pytest
import torch
import yaml

from audiocodec.models import CompressionModel, EncodecModel, export, pretrained
from audiocodec.quantization.codebook import UPDATES_WHEN_UNKNOWN
from audiocodec.run import checkpoint
from audiocodec.utils import config


@pytest.mark.slow
@pytest.mark.parametrize('name', ['model.bin', 'model.safetensors'])
def test_a_checkpoint_becomes_a_file_of_its_averaged_weights(
    make_codec, save_checkpoint, tmp_path, name
):
    model = make_codec()
    source = save_checkpoint(model, tmp_path / 'checkpoint.th')
    report = export.export_compact(source, tmp_path / 'out' / name)
    assert report.passed
    assert report.codes_different == 0
    assert report.codes > 1000
    assert report.wav_difference == 0.0
    assert report.source == 'experiment 0a1b2c3d, epoch 7'
    written = checkpoint.load(tmp_path / 'out' / name)
    assert (written['sig'], written['epoch']) == ('0a1b2c3d', 7)
    assert yaml.safe_load(written['config']) == {'model': model.built_from}
    assert b'secret' not in (tmp_path / 'out' / name).read_bytes()
    saved = json.loads((tmp_path / 'out' / f'{name}.parity.json').read_text())
    assert saved['passed'] is True
    assert saved['files'] == {name: (tmp_path / 'out' / name).stat().st_size}
    loaded = CompressionModel.get_pretrained(str(tmp_path / 'out' / name))
    wav = torch.randn(1, 1, 1001)
    assert torch.equal(loaded(wav).wav, model(wav).wav)


def test_data_for_training_only_is_left_out(make_codec, tmp_path):
    export.export(make_codec(), tmp_path / 'model.bin')
    state = checkpoint.load(tmp_path / 'model.bin')['state']
    assert [name for name in state if name.startswith('quantizer.')] == [
        'quantizer.codebooks.embed',
        'quantizer.codebooks.inited',
    ]


def test_a_compact_model_can_be_fine_tuned(make_codec, tmp_path):
    export.export_compact(make_codec(), tmp_path / 'model.bin')
    model = CompressionModel.get_pretrained(str(tmp_path / 'model.bin')).train()
    books = model.quantizer.codebooks
    before = books.embed.clone()
    assert torch.equal(books.inited, torch.ones(4))
    assert torch.equal(books.embed_avg, before)
    assert torch.equal(books.cluster_size, torch.ones(4, 32))
    for _ in range(3):
        out = model(0.1 * torch.randn(4, 1, 8000))
        (out.wav.square().mean() + out.losses['commitment']).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    moved = (books.embed[0] - before[0]).norm(dim=-1) / before[0].norm(dim=-1)
    assert 0 < moved.max() < 1  # entries follow the data, and none was replaced
    assert (
        int(books.updates) == UPDATES_WHEN_UNKNOWN + 3
    )  # the averages are as long as those of a codebook that is not new


def test_uninitialized_entries_stay_uninitialized(make_codec, tmp_path):
    model = make_codec(quantizer={'kmeans_init': True})
    export.export_compact(model, tmp_path / 'model.safetensors')
    loaded = CompressionModel.get_pretrained(str(tmp_path / 'model.safetensors'))
    assert torch.equal(loaded.quantizer.codebooks.inited, torch.zeros(4))


def test_an_export_is_exported_again(make_codec, tmp_path):
    model = make_codec('stereo')
    export.export_compact(model, tmp_path / 'first.bin')
    report = export.export_compact(tmp_path / 'first.bin', tmp_path / 'second.safetensors')
    assert report.source == 'first.bin'
    assert report.wav_difference == 0.0


def test_a_continuous_autoencoder(make_codec, tmp_path):
    quantizer = {'_target_': 'audiocodec.quantization.NoQuantizer', 'dimension': 8}
    model = config.build({**make_codec().built_from, 'quantizer': quantizer}).eval()
    report = export.export_compact(model, tmp_path / 'model.bin')
    assert report.passed
    assert report.codes == 0
    assert report.wav_peak > 0


def test_a_live_model_is_not_changed(make_codec, tmp_path):
    model = make_codec().train()
    model.set_num_codebooks(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export.export_compact(model, tmp_path / 'model.bin')
    assert model.training
    assert model.num_codebooks == 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_built_by_hand_is_refused(make_codec, tmp_path):
    model = make_codec()
    by_hand = EncodecModel(model.encoder, model.decoder, model.quantizer, 8000, 1)
    with pytest.raises(
        ValueError, match=r"'compact' .*this EncodecModel was not built from a configuration"
    ):
        export.export_compact(by_hand, tmp_path / 'model.bin')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('nowhere.th', "'nowhere.th': no such file or folder"),
        (
            'deadbeef',
            r"'deadbeef': no such file .* as a signature: no checkpoint at "
            r'.*deadbeef/.*AUDIOCODEC_DORA_DIR',
        ),
        ('//sig/00000000', r'//sig/00000000: no checkpoint at .*AUDIOCODEC_DORA_DIR'),
    ],
)
def test_sources_that_do_not_exist(source, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export.export(source, tmp_path / 'model.bin')


def test_places_and_formats_that_do_not_fit(make_codec, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match=r'format compact: .* is a folder: give a file'):
        export.export(make_codec(), tmp_path)
    with pytest.raises(ValueError, match=r'format hf: .* is a file: give a folder'):
        export.export(make_codec(), tmp_path / 'file', 'hf')
    with pytest.raises(ValueError, match='AudioCraft reads PyTorch files'):
        export.export(make_codec(), tmp_path / 'model.safetensors', 'audiocraft')
    with pytest.raises(ValueError, match="format='pth' is unknown: choose one of compact, bundle"):
        export.export(make_codec(), tmp_path / 'model.pth', 'pth')


@pytest.mark.parametrize(('name', 'dtype'), [('a.safetensors', 'float16'), ('a.bin', 'bfloat16')])
def test_half_of_the_size(make_codec, short_audio, tmp_path, name, dtype):
    model = make_codec()
    exact = {key: value.clone() for key, value in model.state_dict().items()}
    report = export.export(model, tmp_path / name, audio=[short_audio], dtype=dtype)
    assert report.passed
    assert report.codes_different == 0
    assert report.wav_difference == 0.0
    assert report.files[name] < 0.75 * report.needed  # half, and the configuration
    (note,) = report.notes
    assert f'compared with the weights rounded to {dtype}' in note
    kept, change = map(float, re.findall(r'keeps ([\d.]+)% .* at most (\S+)', note)[0])
    assert 90 < kept <= 100
    assert 0 < change < 1e-2
    assert all(torch.equal(value, exact[key]) for key, value in model.state_dict().items())
    written = checkpoint.load(tmp_path / name)['state']
    read = pretrained.read(str(tmp_path / name)).state
    for key, value in written.items():
        rounded = exact[key].to(getattr(torch, dtype))
        assert value.dtype == rounded.dtype
        assert torch.equal(value, rounded)
        assert read[key].dtype == torch.float32
        assert torch.equal(read[key], rounded.float())


def test_types_that_do_not_fit(make_codec, tmp_path):
    model = make_codec()
    with pytest.raises(ValueError, match='dtype=float16 is for the format compact only, not for h'):
        export.export(model, tmp_path / 'out', 'hf', dtype='float16')
    with pytest.raises(ValueError, match="dtype='int8' is unknown: choose one of float32, float16"):
        export.export(model, tmp_path / 'new' / 'a.bin', dtype='int8')
    model.encoder.model[0].conv.conv.bias.data[0] = 1e5
    with pytest.raises(ValueError, match=r'bias has numbers of up to 1e\+05, which float16 cannot'):
        export.export(model, tmp_path / 'new' / 'a.bin', dtype='float16')
    assert list(tmp_path.iterdir()) == []
