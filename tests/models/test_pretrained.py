import os
import re
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants

from audiocodec.models import CompressionModel, EncodecModel, pretrained
from audiocodec.run import checkpoint
from audiocodec.utils.config import build

PARITY = Path(__file__).parents[1] / 'fixtures' / 'parity'
SEANET = {'dimension': 6, 'n_filters': 4, 'ratios': [4, 2], 'lstm': 1, 'norm': 'weight_norm'}
NODE = {
    '_target_': 'audiocodec.models.EncodecModel',
    'sample_rate': 1000,
    'channels': 1,
    'encoder': {'_target_': 'audiocodec.modules.SEANetEncoder', **SEANET},
    'decoder': {'_target_': 'audiocodec.modules.SEANetDecoder', **SEANET},
    'quantizer': {
        '_target_': 'audiocodec.quantization.ResidualVectorQuantizer',
        'dimension': 6,
        'n_q': 3,
        'bins': 16,
    },
}
WAV = torch.randn(2, 1, 101, generator=torch.Generator().manual_seed(0))


def own(node=NODE, **changes):
    """Return an exported model of this project, and the model."""
    torch.manual_seed(0)
    model = build(NODE).eval()
    return {
        'format': checkpoint.MODEL_FORMAT,
        'version': 1,
        'sig': 'abcd',
        'epoch': 3,
        'config': yaml.safe_dump({'model': node}),
        'state': model.state_dict(),
        **changes,
    }, model


def get(path):
    return CompressionModel.get_pretrained(str(path))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Empty the Hub cache, and disable the network."""
    cache = tmp_path / 'cache'
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(cache))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    return cache


@pytest.mark.parametrize('suffix', ['th', 'safetensors', 'bin'])
def test_own_exports(tmp_path, suffix):
    content, model = own()
    checkpoint.save(content, tmp_path / f'model.{suffix}')
    loaded = get(tmp_path / f'model.{suffix}')
    assert isinstance(loaded, EncodecModel)
    assert not loaded.training
    assert torch.equal(loaded(WAV).wav, model(WAV).wav)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.mark.parametrize('suffix', ['th', 'safetensors'])
def test_statistics_of_codebooks_may_be_missing(tmp_path, suffix):
    content, model = own()
    content['state'] = {
        name: value
        for name, value in content['state'].items()
        if 'codebooks' not in name or name.endswith('embed')
    }
    checkpoint.save(content, tmp_path / f'model.{suffix}')
    loaded = get(tmp_path / f'model.{suffix}')
    assert torch.equal(loaded.encode(WAV)[0], model.encode(WAV)[0])
    books = loaded.quantizer.codebooks
    torch.testing.assert_close(books.embed_avg / books.cluster_size[..., None], books.embed)
    assert books.inited.all()
    before = books.embed.clone()
    out = loaded.train()(WAV)
    assert out.wav.isfinite().all()
    assert 0 < (books.embed - before).abs().max() < 0.5  # it continues, rather than starting again


def test_training_checkpoints_and_their_folders(tmp_path):
    content, model = own()
    average = {
        name: value + 0.5 for name, value in content['state'].items() if name.endswith('bias')
    }
    checkpoint.save(
        {
            **content,
            'format': checkpoint.CHECKPOINT_FORMAT,
            'state': {'model': content['state'], 'ema': {'averages': average}},
        },
        tmp_path / 'checkpoint.th',
    )
    model.load_state_dict({**model.state_dict(), **average})
    assert torch.equal(get(tmp_path).encode(WAV)[0], model.encode(WAV)[0])
    assert torch.equal(get(tmp_path / 'checkpoint.th').encode(WAV)[0], model.encode(WAV)[0])


def test_configuration_and_weights_without_building(tmp_path):
    checkpoint.save(own()[0], tmp_path / 'model.th')
    config, state = pretrained.read(str(tmp_path / 'model.th'))
    assert config == NODE
    assert state.keys() == own()[1].state_dict().keys()
    config, state = pretrained.read(str(PARITY / 'causal_24khz.audiocraft.bin'))
    assert config['encoder']['n_filters'] == 4
    assert state.keys() <= build(config).state_dict().keys()


def test_the_device_is_chosen(tmp_path):
    checkpoint.save(own()[0], tmp_path / 'model.th')
    assert (
        next(
            pretrained.load(str(tmp_path / 'model.th'), torch.device('meta')).parameters()
        ).device.type
        == 'meta'
    )


@pytest.mark.parametrize(
    'name', ['facebook/encodec_32khz', 'dac_44khz', 'kyutai/mimi', 'somebody/something.v2']
)
def test_a_missing_model_says_what_to_download_and_where_to_put_it(name, offline):
    with pytest.raises(ValueError, match='could not be downloaded') as error:
        get(name)
    text = str(error.value)
    repository = {'dac_44khz': 'descript/dac_44khz'}.get(name, name)
    assert f'config.json and model.safetensors from https://huggingface.co/{repository}' in text
    assert f'hf download {repository}' in text
    assert str(offline) in text


def test_an_unreachable_hub_is_not_waited_for(offline, monkeypatch):
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')
    monkeypatch.setenv('no_proxy', '*')
    start = time.monotonic()
    with pytest.raises(ValueError, match='could not be downloaded'):
        get('facebook/encodec_24khz')
    assert time.monotonic() - start < 5


def test_a_missing_model_without_the_package_that_downloads(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(
        ValueError,
        match=r'needs the package huggingface_hub.*https://huggingface.co/facebook/encodec',
    ):
        get('facebook/encodec_24khz')


def test_a_wrapped_model_cannot_be_trained(offline, tmp_path):
    (tmp_path / 'config.json').write_text('{"model_type": "xcodec"}')
    with pytest.raises(
        ValueError,
        match='is a model of type xcodec, which cannot be trained here: use one of type encodec',
    ):
        pretrained.read(str(tmp_path))


def test_models_of_transformers_without_transformers(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'transformers', None)
    for kind in ('xcodec', 'neucodec'):
        (tmp_path / 'config.json').write_text(f'{{"model_type": "{kind}"}}')
        with pytest.raises(
            ValueError, match=r"needs the package transformers: pip install 'transformers>="
        ):
            get(tmp_path)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        (
            'encodec_24khz',
            r'no such file or folder, and not the name of a model; did you mean '
            r"'facebook/encodec_24khz'",
        ),
        ('dac_48khz', "did you mean 'dac_"),
        ('/nowhere/model.th', r'no such file or folder, and not the name of a model\. Expected'),
        ('outputs/xps/0123', 'no such file or folder'),
        ('', 'contains no model'),
    ],
)
def test_names_that_lead_nowhere(name, message, offline, tmp_path, monkeypatch):
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path / 'empty')
    with pytest.raises(ValueError, match=message):
        get(name)


def test_a_folder_without_a_model(tmp_path):
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(
        ValueError,
        match=r'contains no model: expected config\.json .* checkpoint\.th or .*notes\.txt',
    ):
        get(tmp_path)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'version': 99}, 'written by a newer audiocodec'),
        ({'version': 'x'}, 'damaged configuration'),
        ({'config': 'model: ['}, 'its configuration is not valid YAML'),
        ({'config': 'other: 1'}, r'damaged configuration \(KeyError'),
        ({'config': 'model: 3'}, 'a component needs a _target_, found 3'),
        ({'config': 3}, 'damaged configuration'),
        ({'state': {}}, 'missing'),
        ({'state': {'a': torch.zeros(2)}}, r'1 unexpected \(a\)'),
        ({'state': 5}, r'model\.th'),
        (
            {'state': {name: value.long() for name, value in own()[1].state_dict().items()}},
            r'not of floating-point numbers \(encoder\.\S+ torch\.int64, ',
        ),
        (
            {'config': yaml.safe_dump({'model': {**NODE, 'sample_rate': 0}})},
            'sample_rate=0: expected an integer',
        ),
        (
            {
                'config': yaml.safe_dump(
                    {'model': {**NODE, 'quantizer': {**NODE['quantizer'], 'bins': 32}}}
                )
            },
            r'of another shape \(quantizer.codebooks.embed \[3, 16, 6\] instead of \[3, 32, 6\]',
        ),
        (
            {
                'config': yaml.safe_dump(
                    {'model': {'_target_': 'torch.nn.Linear', 'in_features': 1, 'out_features': 1}}
                )
            },
            'describes a Linear, expected a CompressionModel',
        ),
    ],
)
def test_own_files_that_do_not_fit(tmp_path, changes, message):
    checkpoint.save(own(**changes)[0], tmp_path / 'model.th')
    with pytest.raises(ValueError, match=message) as error:
        get(tmp_path / 'model.th')
    assert str(tmp_path / 'model.th') in str(error.value)


def test_own_files_without_their_parts(tmp_path):
    for key in ('version', 'config', 'state'):
        content = own()[0]
        del content[key]
        checkpoint.save(content, tmp_path / 'model.th')
        with pytest.raises(
            ValueError, match=rf'model\.th: its format is audiocodec\.model, but {key} is'
        ):
            get(tmp_path / 'model.th')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['model.th', 'model.safetensors'])
def test_damaged_files_never_raise_anything_else(tmp_path, name):
    path = tmp_path / name
    checkpoint.save(own()[0], path)
    whole = path.read_bytes()
    generator, messages = torch.Generator().manual_seed(0), []
    for _ in range(40):
        start, size, byte = torch.randint(0, len(whole), (3,), generator=generator).tolist()
        damaged = bytearray(whole)
        damaged[start : start + size % 64] = bytes([byte % 256]) * (size % 64)
        path.write_bytes(damaged[:size] if byte % 2 else damaged)
        try:
            get(path)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all(str(path) in message for message in messages)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (
            {'a': torch.zeros(1), 'b': 1},
            r'contains a, b: neither a checkpoint or export of audiocodec or AudioCraft',
        ),
        ({}, 'contains nothing'),
        (
            {'pretrained': 'facebook/encodec_32khz', 'exported': True, 'version': '1'},
            'has no weights, only the name',
        ),
        ({'best_state': {}, 'xp.cfg': 'a: 1'}, r'compression_model=None'),
    ],
)
def test_files_of_other_kinds(tmp_path, content, message):
    torch.save(content, tmp_path / 'file.th')
    with pytest.raises(ValueError, match=rf'file\.th:? .*{message}|file\.th {message}'):
        get(tmp_path / 'file.th')


def test_weights_of_transformers_without_their_configuration(tmp_path):
    from safetensors.torch import save_file

    save_file({'encoder.layers.0.conv.bias': torch.zeros(2)}, tmp_path / 'model.safetensors')
    with pytest.raises(
        ValueError, match=r'weights of transformers need their config\.json in the same folder'
    ):
        get(tmp_path / 'model.safetensors')


class Payload:
    def __reduce__(self):
        return os.mkdir, ('executed',)


@pytest.mark.parametrize(
    'write',
    [
        lambda path: torch.save({'x': Payload()}, path),
        lambda path: torch.save({**own()[0], 'extra': Payload()}, path),
        lambda path: torch.save({'x': Payload()}, path, _use_new_zipfile_serialization=False),
        pytest.param(
            lambda path: torch.jit.save(
                torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path
            ),
            marks=pytest.mark.filterwarnings('ignore:`torch.jit.'),
        ),
    ],
)
def test_code_in_a_file_is_refused_and_not_run(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    write('evil.th')
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # PyTorch would warn about TorchScript
        with pytest.raises(ValueError, match=r'evil\.th contains .*Loading it would run code'):
            get('evil.th')
    assert not Path('executed').exists()


@pytest.mark.parametrize(
    ('part', 'message'),
    [
        (
            {'_target_': 'audiocodec.run.checkpoint.os.mkdir', 'path': 'executed'},
            "'os' belongs to os",
        ),
        ({'_target_': 'os.mkdir', 'path': 'executed'}, 'not allowed'),
        (
            {'_target_': 'torch.nn.functional.torch.hub.os.mkdir', 'path': 'executed'},
            "'torch' belongs to torch",
        ),
        (
            {'_target_': 'audiocodec.run.checkpoint.save', 'content': {}, 'path': 'executed'},
            'refused',
        ),
        ({'_target_': 'audiocodec.models.pretrained.load', 'name': 'x'}, 'refused'),
        ({'_target_': 'torch.optim.Adam', 'params': []}, 'refused'),
        ('${oc.create:{_target_:os.mkdir,path:executed}}', 'an interpolation'),
    ],
)
def test_code_in_a_configuration_is_refused_and_not_run(tmp_path, monkeypatch, part, message):
    monkeypatch.chdir(tmp_path)
    for node in (part, {**NODE, 'encoder': part}):
        checkpoint.save(own(node)[0], 'evil.th')
        with pytest.raises(
            ValueError, match=message if isinstance(node, dict) else 'needs a _target_'
        ):
            get('evil.th')
    assert os.listdir() == ['evil.th']


def test_every_name_is_documented():
    page = (Path(__file__).parents[2] / 'docs' / 'formats.md').read_text()
    for name in pretrained.NAMES:
        assert f'`{name}`' in page
    for prefix in pretrained._TARGETS:
        assert f'`{prefix.rstrip(".")}`' in page


def test_tensors_are_read_in_one_place():
    root = Path(__file__).parents[2]
    calls = {
        path.relative_to(root).as_posix(): line.strip()
        for folder in ('audiocodec', 'grids', 'scripts')
        for path in (root / folder).rglob('*.py')
        for line in path.read_text().splitlines()
        if re.search(
            r'torch\.load\(|pickle\.loads?\(|allow_pickle|yaml\.(unsafe_|full_)?load\(', line
        )
    }
    assert list(calls) == ['audiocodec/run/checkpoint.py']
    assert 'weights_only=True' in calls['audiocodec/run/checkpoint.py']
