import pytest
import torch
import yaml

from audiocodec.models import CompressionModel
from audiocodec.models.export import compact
from audiocodec.run import checkpoint
from audiocodec.utils import config


@pytest.fixture(scope='module')
def base_24khz(tmp_path_factory):
    """A model of the size of the recipe encodec_base_24khz, and its training checkpoint."""
    seanet = {
        'dimension': 128,
        'n_filters': 32,
        'n_residual_layers': 1,
        'ratios': [8, 5, 4, 2],
        'norm': 'weight_norm',
        'causal': True,
        'pad_mode': 'constant',
        'lstm': 2,
    }
    model = config.build(
        {
            '_target_': 'audiocodec.models.EncodecModel',
            'sample_rate': 24000,
            'channels': 1,
            'encoder': {'_target_': 'audiocodec.modules.SEANetEncoder', **seanet},
            'decoder': {'_target_': 'audiocodec.modules.SEANetDecoder', **seanet},
            'quantizer': {
                '_target_': 'audiocodec.quantization.ResidualVectorQuantizer',
                'dimension': 128,
                'n_q': 32,
                'bins': 1024,
            },
        }
    )
    path = tmp_path_factory.mktemp('xp') / 'checkpoint.th'
    state = model.state_dict()
    trained = {
        name: value * 2 if value.is_floating_point() else value for name, value in state.items()
    }
    full = {'model': model.built_from, 'datasource': {'train': '/secret/place'}}
    checkpoint.save(
        {
            'format': checkpoint.CHECKPOINT_FORMAT,
            'version': 1,
            'sig': 'abcd0123',
            'epoch': 2,
            'config': yaml.safe_dump(full),
            'state': {'model': trained, 'ema': {'averages': state}, 'optimizer': {'m': state}},
        },
        path,
    )
    return model, path


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['compression_state_dict.bin', 'compression_state_dict.safetensors']
)
def test_it_contains_the_averaged_weights_and_nothing_else(base_24khz, name, tmp_path):
    model, source = base_24khz
    path = compact.export_encodec(source, tmp_path / 'new' / 'folder' / name)
    assert path == tmp_path / 'new' / 'folder' / name
    needed = 4 * (
        sum(parameter.numel() for parameter in model.parameters())
        + model.quantizer.codebooks.embed.numel()
    )
    assert path.stat().st_size == pytest.approx(needed, rel=0.02)
    loaded = CompressionModel.get_pretrained(str(path))
    assert all(
        torch.equal(value, model.state_dict()[key])
        for key, value in loaded.state_dict().items()
        if value.dim() > 1 and 'codebooks' not in key
    )
    assert torch.equal(loaded.quantizer.codebooks.embed, model.quantizer.codebooks.embed)
    assert loaded.built_from == model.built_from
    assert b'secret' not in path.read_bytes()


def test_only_statistics_of_codebooks_are_left_out():
    state = {
        'quantizer.codebooks.embed': 1,
        'quantizer.codebooks.embed_avg': 2,
        'quantizer.codebooks.inited': 3,
        'quantizer.codebooks.updates': 4,
        'encoder.usage': 5,
        'codebooks.usage': 6,
        'a.codebooks.dead': 7,
    }
    assert list(compact.compact_state(state)) == [
        'quantizer.codebooks.embed',
        'quantizer.codebooks.inited',
        'encoder.usage',
        'codebooks.usage',
        'a.codebooks.dead',
    ]


def test_an_incomplete_file_is_an_error(monkeypatch, tmp_path):
    save = checkpoint.save

    def forgetful(content, path):
        save({**content, 'state': {'a': content['state']['a'] + 1e-7}}, path)

    monkeypatch.setattr(checkpoint, 'save', forgetful)
    with pytest.raises(ValueError, match=r'model.bin does not contain what was written'):
        compact.save_compact({'_target_': 'x'}, {'a': torch.ones(3)}, tmp_path / 'model.bin')


def test_views_are_written_without_their_base(tmp_path):
    large = torch.randn(100000)
    for name in ('model.bin', 'model.safetensors'):
        state = {
            'a': large[:10],
            'b': large[:10],
            'c': large[::50000],
            'nan': torch.full((2,), torch.nan),
        }
        compact.save_compact({'_target_': 'x'}, state, tmp_path / name)
        assert (tmp_path / name).stat().st_size < 5000


def test_something_else_than_a_training_checkpoint(tmp_path):
    checkpoint.save({'format': checkpoint.MODEL_FORMAT, 'version': 1}, tmp_path / 'model.bin')
    with pytest.raises(ValueError, match='is not a training checkpoint of audiocodec'):
        compact.export_encodec(tmp_path / 'model.bin', tmp_path / 'out.bin')


def test_weights_are_converted_and_integers_are_not():
    state = {'w': torch.tensor([1 / 3, -70000.0, torch.inf]), 'n': torch.tensor([70001])}
    found = compact.converted(state, 'bfloat16')
    assert found['w'].tolist() == [0.333984375, -70144, torch.inf]
    assert found['n'] is state['n']
    wide = compact.widened({**found, 'text': 'left as it is'})
    assert wide['w'].dtype == torch.float32
    assert (wide['n'].dtype, wide['text']) == (torch.int64, 'left as it is')
    for dtype, message in (
        ('float16', r'w has numbers of up to inf, which float16 cannot represent: use bfloat16'),
        ('int8', r"dtype='int8' is unknown: choose one of float32, float16, bfloat16"),
    ):
        with pytest.raises(ValueError, match=message):
            compact.converted(state, dtype)
