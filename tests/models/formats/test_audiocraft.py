import collections
import fractions
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from safetensors import safe_open

from audiocodec.models import CompressionModel, EncodecModel
from audiocodec.models.formats import audiocraft
from audiocodec.models.formats.audiocraft import model_config
from audiocodec.models.formats.common.keys import make_model
from audiocodec.modules import SEANetDecoder, SEANetEncoder
from audiocodec.quantization import ResidualVectorQuantizer

PARITY = Path(__file__).parents[2] / 'fixtures' / 'parity'
NAMES = ('causal_24khz', 'musicgen_32khz', 'stereo_48khz')


def load_package(name='causal_24khz'):
    return torch.load(PARITY / f'{name}.audiocraft.bin', map_location='cpu', weights_only=True)


def load_figures(name):
    with safe_open(PARITY / f'{name}.io.safetensors', 'pt') as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def edited(**sections):
    """Return the configuration of causal_24khz with keys of its sections changed."""
    config = yaml.safe_load(load_package()['xp.cfg'])
    for name, changes in sections.items():
        config[name] = {**config[name], **changes} if isinstance(changes, dict) else changes
    return yaml.safe_dump(config)


def from_export(package):
    return make_model(*audiocraft.read(package))


def names_of_audiocraft(state):
    """Translate names to those of AudioCraft: the inverse of what is tested."""
    leaves = {
        'parametrizations.weight.original0': 'weight_g',
        'parametrizations.weight.original1': 'weight_v',
        'parametrizations.weight.original': 'weight_orig',
        'parametrizations.weight.0._u': 'weight_u',
        'parametrizations.weight.0._v': 'weight_v',
    }
    renamed = {}
    for name, value in state.items():
        if name.startswith('quantizer.codebooks.'):
            buffer = name.rpartition('.')[2]
            if buffer in ('embed', 'embed_avg', 'cluster_size', 'inited'):
                for level, book in enumerate(value):
                    renamed[f'quantizer.vq.layers.{level}._codebook.{buffer}'] = book.view(
                        -1, *book.shape[1:]
                    )
            continue
        module, _, leaf = name.partition('.parametrizations')
        renamed[f'{module}.{leaves["parametrizations" + leaf]}' if leaf else name] = value
    return renamed


def widest_gap(model, latents, codes, expected):
    """Where codes differ from the expected, how much nearer one entry is, per unit of what may move
    the decision.

    If latents are off by d, the squared distances to entries a and b change by 2 d.(a - b) against
    each other: the gap between them, divided by 2 |a - b|, is at most |d| where rounding alone
    decides."""
    widest = 0.0
    for item, frame in (codes != expected).any(dim=1).nonzero().tolist():
        level = int((codes[item, :, frame] != expected[item, :, frame]).nonzero()[0])
        books = model.quantizer.codebooks.embed.double()
        residual = latents[item, :, frame].double()
        for above in range(level):
            residual = residual - books[above, expected[item, above, frame]]
        ours, theirs = (
            books[level, codes[item, level, frame]],
            books[level, expected[item, level, frame]],
        )
        gap = (residual - ours).square().sum() - (residual - theirs).square().sum()
        widest = max(widest, (gap.abs() / (2 * (ours - theirs).norm())).item())
    return widest


@pytest.mark.parametrize('name', NAMES)
def test_exported_model_gives_exactly_the_same_codes(name):
    # float64: in float32, the last codebooks depend on the rounding of a CPU and its number of
    # threads
    model = from_export(load_package(name)).double()
    figures, metadata = load_figures(name)
    codes, scale = model.encode(figures['wav'].double())
    assert torch.equal(codes, figures['codes'])
    assert torch.equal(model(figures['wav'].double()).codes, figures['codes'])
    assert (scale is None) == ('scale' not in figures)
    if scale is not None:
        torch.testing.assert_close(scale.float(), figures['scale'])
    model.set_num_codebooks(int(metadata['num_codebooks_half']))
    assert torch.equal(model.encode(figures['wav'].double())[0], figures['codes_half'])


@pytest.mark.parametrize('name', NAMES)
def test_exported_model_computes_the_same(name):
    model = from_export(load_package(name))
    figures, metadata = load_figures(name)
    assert isinstance(model, EncodecModel)
    assert not model.training
    assert (model.sample_rate, model.channels) == (
        int(metadata['sample_rate']),
        int(metadata['channels']),
    )
    assert model.frame_rate == float(metadata['frame_rate'])
    assert model.num_codebooks == model.total_codebooks == int(metadata['num_codebooks'])
    size = figures['latents'].abs().max().item()
    scale = figures.get('scale')
    with torch.no_grad():
        latents = model.encoder(
            figures['wav'] if scale is None else figures['wav'] / scale[:, :, None]
        )
        torch.testing.assert_close(latents, figures['latents'], rtol=0, atol=3e-6 * size)
        assert torch.equal(model.quantizer.encode(figures['latents']), figures['codes'])
        for codes, decoded in (('codes', 'decoded'), ('codes_half', 'decoded_half')):
            torch.testing.assert_close(
                model.decode(figures[codes], scale), figures[decoded], rtol=0, atol=1e-4
            )
        out = model(figures['wav'])
    assert out.wav.shape == figures['forward'].shape
    torch.testing.assert_close(out.wav, figures['forward'], rtol=0, atol=1e-4)
    torch.testing.assert_close(out.bandwidth.view(1), figures['bandwidth'])
    assert torch.equal(out.codes, model.encode(figures['wav'])[0])
    assert (out.codes != figures['codes']).float().mean() < 0.02
    assert widest_gap(model, figures['latents'], out.codes, figures['codes']) < 3e-6 * size
    if scale is not None:
        torch.testing.assert_close(out.scale, scale)
    model.set_num_codebooks(int(metadata['num_codebooks_half']))
    assert model(figures['wav']).bandwidth.item() == pytest.approx(figures['bandwidth'].item() / 2)


def test_exported_model_has_all_codebooks_initialized():
    model = from_export(load_package())
    assert torch.equal(model.quantizer.codebooks.inited, torch.ones(8))
    state = load_package()['best_state']
    for buffer in ('embed', 'embed_avg', 'cluster_size'):
        level = state[f'quantizer.vq.layers.5._codebook.{buffer}']
        assert torch.equal(getattr(model.quantizer.codebooks, buffer)[5], level)


def test_exported_model_can_be_fine_tuned():
    model = from_export(load_package()).train()
    out = model(0.1 * torch.randn(2, 1, 2400))
    (out.wav.square().mean() + out.losses['commitment']).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_configuration_is_translated_key_by_key():
    node = model_config(
        edited(
            seanet={
                'decoder': {'trim_right_ratio': 0.5, 'n_filters': 8, 'final_activation': 'Tanh'},
                'encoder': {'lstm': 0},
                'norm_params': {'ignored': 1},
            }
        )
    )
    common = {
        'channels': 1,
        'dimension': 16,
        'n_residual_layers': 1,
        'ratios': [8, 5, 4, 2],
        'activation': 'ELU',
        'activation_params': {'alpha': 1.0},
        'norm': 'weight_norm',
        'kernel_size': 7,
        'last_kernel_size': 7,
        'residual_kernel_size': 3,
        'dilation_base': 2,
        'causal': True,
        'pad_mode': 'constant',
        'true_skip': True,
        'compress': 2,
        'disable_norm_outer_blocks': 0,
    }
    assert node == {
        '_target_': 'audiocodec.models.EncodecModel',
        'sample_rate': 24000,
        'channels': 1,
        'renormalize': False,
        'encoder': {
            '_target_': 'audiocodec.modules.SEANetEncoder',
            **common,
            'n_filters': 4,
            'lstm': 0,
        },
        'decoder': {
            '_target_': 'audiocodec.modules.SEANetDecoder',
            **common,
            'n_filters': 8,
            'lstm': 2,
            'trim_right_ratio': 0.5,
            'final_activation': 'Tanh',
        },
        'quantizer': {
            '_target_': 'audiocodec.quantization.ResidualVectorQuantizer',
            'dimension': 16,
            'n_q': 8,
            'bins': 64,
            'q_dropout': True,
            'decay': 0.99,
            'kmeans_init': True,
            'kmeans_iters': 50,
            'threshold_ema_dead_code': 2,
        },
    }


def test_interpolations_are_resolved():
    text = edited(
        encodec={'sample_rate': '${sample_rate}', 'channels': '${channels}'},
        seanet={'causal': '${encodec.causal}', 'channels': '${channels}'},
    )
    text += 'dora: {dir: "${oc.env:NOT_SET_ANYWHERE}"}\nrate: 1e-4\n'
    assert model_config(text) == model_config(edited())


def test_a_model_without_quantizer():
    text = edited(encodec={'quantizer': 'no_quant'})
    package = load_package()
    state = {
        name: value
        for name, value in package['best_state'].items()
        if not name.startswith('quantizer.')
    }
    model = from_export({**package, 'xp.cfg': text, 'best_state': state})
    assert model.total_codebooks == 0
    figures, _ = load_figures('causal_24khz')
    with torch.no_grad():
        torch.testing.assert_close(
            model(figures['wav']).latents, figures['latents'], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize('norm', ['none', 'weight_norm', 'spectral_norm', 'time_group_norm'])
def test_weights_of_every_norm(norm):
    torch.manual_seed(0)
    text = edited(seanet={'norm': norm, 'causal': False})
    options = yaml.safe_load(text)['seanet']
    encoder, decoder = options.pop('encoder'), options.pop('decoder')
    source = EncodecModel(
        SEANetEncoder(**options, **encoder),
        SEANetDecoder(**options, **decoder),
        ResidualVectorQuantizer(dimension=16, n_q=8, bins=64, kmeans_init=False),
        24000,
        1,
    )
    model = from_export({'best_state': names_of_audiocraft(source.state_dict()), 'xp.cfg': text})
    wav = torch.randn(1, 1, 1000)
    out, expected = model(wav), source.eval()(wav)
    assert torch.equal(out.codes, expected.codes)
    assert torch.equal(out.wav, expected.wav)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'compression_model': 'dac'}, "compression_model='dac' .* only 'encodec'"),
        ({'encodec': {'autoencoder': 'unet'}}, "encodec.autoencoder='unet' .* only seanet"),
        ({'encodec': {'quantizer': 'fsq'}}, "encodec.quantizer='fsq' .* only rvq or no_quant"),
        ({'encodec': {'segment': 1.0}}, 'not supported: encodec.segment=1.0'),
        ({'encodec': {'renormalize': True}}, 'renormalize=True needs the loudness'),
        (
            {'seanet': {'snake': True, 'dtype': 'half'}},
            "not supported: seanet.dtype='half', seanet.snake=True",
        ),
        ({'seanet': {'decoder': {'snake': 1}}}, 'not supported: seanet.decoder.snake=1'),
        (
            {'seanet': {'encoder': {'trim_right_ratio': 1.0}}},
            'not supported: seanet.encoder.trim_right_ratio=1.0',
        ),
        ({'seanet': {'norm': 'layer_norm'}}, "norm='layer_norm' is unknown"),
        ({'seanet': {'dimension': '${nowhere}'}}, 'xp.cfg. cannot be read: .*nowhere'),
        ({'seanet': None}, 'has no section seanet'),
        ({'rvq': {'codebook_dim': 8}}, 'not supported: rvq.codebook_dim=8'),
        (
            {'seanet': {'n_filters': 8}},
            r'of another shape \(encoder.model.0.conv.conv.* \[4, ?.*\] instead of \[8',
        ),
        ({'seanet': {'lstm': 0}}, r'unexpected \(encoder.model.13.lstm'),
        ({'seanet': {'n_residual_layers': 2}}, 'missing'),
        (
            {'rvq': {'n_q': 16}},
            r'quantizer.codebooks.embed \[8, 64, 16\] instead of \[16, 64, 16\]',
        ),
    ],
)
def test_configurations_that_cannot_be_loaded(changes, message):
    with pytest.raises(ValueError, match=message):
        from_export({**load_package(), 'xp.cfg': edited(**changes)})


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a: [1', 'cannot be read'),
        ('- 1\n- 2\n', 'not a mapping'),
        ('transformer_lm: {dim: 8}\n', 'compression_model=None'),
    ],
)
def test_invalid_configurations(text, message):
    with pytest.raises(ValueError, match=message):
        model_config(text)


@pytest.mark.parametrize(
    ('package', 'message'),
    [
        (
            {'pretrained': 'facebook/encodec_32khz', 'exported': True},
            "get_pretrained.'facebook/encodec_32khz'",
        ),
        ({'model': {}}, r"no best_state and no xp.cfg, only \['model'\]"),
    ],
)
def test_packages_that_are_not_exports(package, message):
    with pytest.raises(ValueError, match=message):
        from_export(package)


def test_weights_that_are_incomplete():
    package = load_package()
    state = package['best_state']
    without = {
        name: value
        for name, value in state.items()
        if not name.startswith('quantizer.vq.layers.3.')
    }
    with pytest.raises(ValueError, match=r'_codebook\..* must be numbered from 0'):
        from_export({**package, 'best_state': without})
    without = {name: value for name, value in state.items() if not name.startswith('quantizer.')}
    with pytest.raises(ValueError, match=r'4 missing \(quantizer.codebooks.embed'):
        from_export({**package, 'best_state': without})
    with pytest.raises(ValueError, match='model among the weights is not a tensor but OrderedDict'):
        from_export({**package, 'best_state': {'model': state}})
    with pytest.raises(ValueError, match='AudioCraft package contains no weights'):
        from_export({**package, 'best_state': {}})
    with pytest.raises(ValueError, match=r'1 unexpected \(decoder.extra\)'):
        from_export({**package, 'best_state': {**state, 'decoder.extra': torch.zeros(1)}})


def test_training_options_without_equivalent_are_reported(caplog):
    node = model_config(edited(rvq={'orthogonal_reg_weight': 0.5}))
    assert 'orthogonal_reg_weight' not in node['quantizer']
    assert 'rvq.orthogonal_reg_weight=0.5' in caplog.text


def training_checkpoint(**changes):
    """What AudioCraft's solver saves: its configuration as an object of omegaconf, the weights of
    the best epoch.
    """
    package = load_package()
    cfg = OmegaConf.create(yaml.safe_load(package['xp.cfg']))
    cfg.merge_with(
        {
            'sample_rate': 24000,
            'dora': {'dir': '${oc.env:NOT_SET_ANYWHERE}'},
            'optim': {'betas': [0.5, 0.9]},
            'continue_from': None,
            'encodec': {'sample_rate': '${sample_rate}'},
            'name': 'x',
            'empty': [],
        }
    )
    OmegaConf.set_struct(cfg, True)
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    averages = collections.defaultdict(dict)
    averages['model']['weight'] = torch.ones(2)
    history = [{'train': {'loss': 0.5, 'ratio': 1}, 'evaluate': {'visqol': np.float64(4.5)}}]
    return {
        'history': history,
        'xp.cfg': cfg,
        'xp.sig': '0123abcd',
        'model': {name: torch.zeros_like(value) for name, value in package['best_state'].items()},
        'best_state': {'model': package['best_state']},
        'fsdp_best_state': {},
        'optimizer': optimizer.state_dict(),
        'ema': {'state': averages, 'count': 1.5},
        'adv_losses': {'adversary.weight': torch.ones(3)},
        **changes,
    }


def test_training_checkpoints_are_read(tmp_path):
    path = tmp_path / 'checkpoint.th'
    figures, _ = load_figures('causal_24khz')
    expected = CompressionModel.get_pretrained(str(PARITY / 'causal_24khz.audiocraft.bin')).encode(
        figures['wav']
    )[0]
    best = load_package()['best_state']
    for changes in (
        {},
        {'best_state': {}, 'model': best},
        {'best_state': {}, 'fsdp_best_state': {'model': best}},
    ):
        torch.save(training_checkpoint(**changes), path)
        model = CompressionModel.get_pretrained(str(path))
        assert torch.equal(model.encode(figures['wav'])[0], expected)
        assert torch.equal(
            CompressionModel.get_pretrained(str(tmp_path)).encode(figures['wav'])[0], expected
        )


class Payload:
    def __reduce__(self):
        return os.mkdir, ('executed',)


def test_code_next_to_the_configuration_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for changes in (
        {'extra': Payload()},
        {'xp.cfg': {'cfg': OmegaConf.create({'a': 1}), 'b': Payload()}},
        {'extra': Path('/')},
        {'extra': fractions.Fraction(1)},
    ):
        torch.save(training_checkpoint(**changes), 'checkpoint.th')
        with pytest.raises(
            ValueError,
            match=r'checkpoint\.th contains more than .*: it names (\w+\.mkdir|pathlib|fract)',
        ):
            CompressionModel.get_pretrained('checkpoint.th')
    assert os.listdir() == ['checkpoint.th']


def test_types_of_a_configuration_are_those_that_omegaconf_saves(tmp_path):
    torch.save(training_checkpoint(), tmp_path / 'checkpoint.th')
    names = torch.serialization.get_unsafe_globals_in_checkpoint(str(tmp_path / 'checkpoint.th'))
    assert set(names) <= set(audiocraft.checkpoint_types())
    assert 'omegaconf.dictconfig.DictConfig' in names


def test_a_configuration_without_its_fields(tmp_path):
    cfg = OmegaConf.create({'a': 1})
    cfg.__dict__['_content'] = 3
    torch.save(training_checkpoint(**{'xp.cfg': cfg}), tmp_path / 'checkpoint.th')
    with pytest.raises(ValueError, match=r'checkpoint\.th'):
        CompressionModel.get_pretrained(str(tmp_path / 'checkpoint.th'))
