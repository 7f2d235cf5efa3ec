"""Mimi folders of `transformers`: codes, latents and waveforms are the same, in both directions."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from audiocodec.models import EncodecModel
from audiocodec.models.export import program
from audiocodec.models.formats import hub, mimi, mimi_export
from audiocodec.models.formats.common.keys import make_model
from audiocodec.utils import config

FIXTURE = Path(__file__).parents[2] / 'fixtures' / 'mimi'
SMALL = {
    'hidden_size': 16,
    'num_filters': 2,
    'codebook_size': 16,
    'codebook_dim': 8,
    'num_quantizers': 4,
    'vector_quantization_hidden_dimension': 8,
    'upsample_groups': 16,
    'num_hidden_layers': 2,
    'intermediate_size': 24,
    'num_attention_heads': 2,
    'num_key_value_heads': 2,
    'head_dim': 8,
    'sliding_window': 7,
    'layer_scale_initial_scale': 0.3,
    'upsampling_ratios': [4, 3, 2],
    'frame_rate': 500.0,
}
HOP = 48
VARIANTS = {
    'default': {},
    'stereo': {'audio_channels': 2},
    'shortcut': {'use_conv_shortcut': True, 'num_residual_layers': 2, 'num_semantic_quantizers': 2},
    'no-projection': {'codebook_dim': 16, 'vector_quantization_hidden_dimension': 16},
    'groups': {'upsample_groups': 4, 'pad_mode': 'replicate', 'rope_theta': 500.0},
}


def ours_of(folder):
    return make_model(*mimi.read(folder))


def small(**changes):
    """Return a small configuration that the installed `transformers` computes as intended.

    Version 4.57 ignores the sliding window of Mimi.
    """
    modeling = hub.import_transformers().models.mimi.modeling_mimi
    has_window = hasattr(modeling, 'create_sliding_window_causal_mask')
    return {**SMALL, **changes, 'sliding_window': SMALL['sliding_window'] if has_window else 10000}


def randomize(theirs):
    """Give a model of `transformers` codebooks, and statistics as after training."""
    with torch.no_grad():
        for name, buffer in theirs.named_buffers():
            if name.endswith('embed_sum'):
                buffer.normal_()
            elif name.endswith('cluster_usage'):
                buffer.uniform_(0.1, 3.0)


@pytest.fixture(scope='module', params=VARIANTS)
def pair(request, tmp_path_factory):
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(0)
    options = small(**VARIANTS[request.param])
    theirs = transformers.MimiModel(transformers.MimiConfig(**options)).eval()
    randomize(theirs)
    folder = tmp_path_factory.mktemp('mimi') / request.param
    theirs.save_pretrained(folder)
    return theirs, folder


def check_parity(theirs, ours):
    used = set()
    for length in (1, HOP - 1, HOP, 2999):
        wav = torch.randn(2, ours.channels, length)
        latents = ours.encode_latent(wav)[0]
        expected = theirs.encoder(wav)
        if not isinstance(expected, torch.Tensor):  # older versions: the first of three parts
            torch.testing.assert_close(latents, expected.latents, rtol=0, atol=1e-4)
        for number in list(ours.possible_num_codebooks):
            ours.set_num_codebooks(number)
            codes = ours.encode(wav)[0]
            assert torch.equal(codes, theirs.encode(wav, num_quantizers=number).audio_codes)
            wav_hat = theirs.decode(codes).audio_values
            torch.testing.assert_close(ours.decode(codes), wav_hat, rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(ours.decode_latent(codes), theirs.quantizer.decode(codes))
            used.update(codes.unique().tolist())
    assert len(used) > 8, 'the case must use many entries'


@pytest.mark.slow
@torch.no_grad()
def test_reading_gives_the_codes_latents_and_waveforms_of_transformers(pair):
    theirs, folder = pair
    ours = ours_of(folder)
    assert isinstance(ours, EncodecModel)
    assert ours.frame_rate == 500.0
    check_parity(theirs, ours)


@pytest.mark.slow
@torch.no_grad()
def test_writing_gives_the_same_files_and_model(pair, tmp_path):
    theirs, folder = pair
    ours = ours_of(folder)
    mimi_export.save(ours, tmp_path / 'out', 'A test.')
    before, after = (load_file(path / 'model.safetensors') for path in (folder, tmp_path / 'out'))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    loaded = mimi_export.Loaded(tmp_path / 'out')
    assert type(loaded._model) is type(theirs)
    ours.set_num_codebooks(ours.total_codebooks)
    wav = torch.randn(1, ours.channels, 999)
    codes = loaded.encode(wav)[0]
    assert torch.equal(codes, theirs.encode(wav).audio_codes)
    torch.testing.assert_close(loaded.decode(codes), ours.decode(codes), rtol=0, atol=1e-4)
    assert loaded._model.config.frame_rate == 500.0
    assert 'A test.' in (tmp_path / 'out' / 'README.md').read_text()
    extractor = hub.import_transformers().AutoFeatureExtractor.from_pretrained(tmp_path / 'out')
    assert extractor.sampling_rate == 24000


def trained(options=SMALL):
    """Return a model of ours after two updates of its codebooks, with a weight norm."""
    node = mimi.model_config(options)
    node['encoder']['encoder']['norm'] = node['decoder']['decoder']['norm'] = 'weight_norm'
    node['quantizer']['kmeans_iters'] = 2
    torch.manual_seed(0)
    model = config.build(node).train()
    for _ in range(2):
        model(torch.randn(4, 1, 40 * HOP))
    return model.eval()


@pytest.mark.slow
@torch.no_grad()
def test_writing_a_trained_model(tmp_path):
    pytest.importorskip('transformers')
    ours = trained(small())
    mimi_export.save(ours, tmp_path / 'out')
    theirs = mimi_export.Loaded(tmp_path / 'out')._model
    check_parity(theirs, ours)


@torch.no_grad()
def test_reading_what_was_written(tmp_path):
    ours = trained()
    mimi_export.save(ours, tmp_path / 'out')
    again = ours_of(tmp_path / 'out')
    wav = torch.randn(2, 1, 999)
    assert torch.equal(again.encode(wav)[0], ours.encode(wav)[0])
    torch.testing.assert_close(again(wav).wav, ours(wav).wav, rtol=0, atol=1e-5)
    for part in ('semantic', 'acoustic'):
        name = f'quantizer.{part}.rvq.codebooks.'
        entries = again.state_dict()[f'{name}embed']
        assert torch.equal(entries, ours.state_dict()[f'{name}embed'])
        usage = again.state_dict()[f'{name}cluster_size']
        ratio = usage / ours.state_dict()[f'{name}cluster_size']
        assert ratio.min() > 0.7
        assert ratio.max() < 1.42


@torch.no_grad()
def test_outputs_of_transformers_are_reproduced_without_it():
    """The fixture: a model of `transformers` with random weights, its input and its outputs."""
    tensors = load_file(FIXTURE / 'io.safetensors')
    ours = ours_of(FIXTURE)
    assert torch.equal(ours.encode(tensors['wav'])[0], tensors['codes'])
    torch.testing.assert_close(
        ours.encode_latent(tensors['wav'])[0], tensors['latents'], rtol=0, atol=1e-4
    )
    torch.testing.assert_close(ours.decode(tensors['codes']), tensors['wav_hat'], rtol=0, atol=1e-4)
    assert len(tensors['codes'].unique()) > 10


@torch.no_grad()
def test_copies_for_inference_and_for_a_cpu_compute_the_same():
    tensors = load_file(FIXTURE / 'io.safetensors')
    ours = ours_of(FIXTURE)
    wav = torch.randn(2, 1, 40 * HOP)  # longer than the window of the attention
    for copy in (ours.for_inference(), ours.for_cpu()):
        assert torch.equal(copy.encode(tensors['wav'])[0], tensors['codes'])
        for found, expected in ((copy(wav).wav, ours(wav).wav), (copy(wav).codes, ours(wav).codes)):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_traced_programs_serve_any_batch_length_and_number_of_codebooks():
    ours = trained()
    traced = []
    for name, module in zip(
        ('encoder', 'decoder'), program.programs(ours, 'torch', program.ScanLSTM)
    ):
        arguments, dynamic = program.example_inputs(ours)[name]
        exported = torch.export.export(module, arguments, dynamic_shapes=dynamic)
        traced.append(exported.module())
    encoder, decoder = traced
    for batch, length in ((1, 2 * HOP), (3, 41 * HOP + 1)):
        wav = torch.randn(batch, 1, length)
        codes = ours.encode(wav)[0]
        assert (encoder(wav)[0] == codes).float().mean() > 0.99  # but for ties
        for number in (1, 2, 4):
            found = decoder(codes[:, :number])
            torch.testing.assert_close(found, ours.decode(codes[:, :number]), rtol=0, atol=1e-4)


def test_the_published_configuration():
    model = mimi.model_config({'frame_rate': 12.5, 'model_type': 'mimi'})
    built = config.build(model)
    assert (built.sample_rate, built.frame_rate, built.total_codebooks) == (24000, 12.5, 32)
    assert built.cardinality == 2048
    assert built.bandwidth_of(8) == pytest.approx(1.1)
    assert built.encoder.causal
    assert built.decoder.causal
    assert sum(p.numel() for p in built.parameters()) == pytest.approx(79.3e6, rel=0.01)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'hidden_act': 'relu'}, "hidden_act='relu': only 'gelu' is supported"),
        ({'num_key_value_heads': 1}, 'num_key_value_heads=1'),
        ({'head_dim': 4}, 'head_dim=4'),
        ({'codebook_dim': 4}, 'codebook_dim=4: only 8 is supported'),
        ({'rope_parameters': {'rope_type': 'linear'}}, "rope_type='linear'"),
        ({'sliding_window': None}, 'sliding_window=None: a window is needed'),
    ],
)
def test_configurations_that_are_not_supported(changes, message):
    with pytest.raises(ValueError, match=message):
        mimi.model_config({**SMALL, **changes})


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda s: s.pop('encoder_transformer.layers.0.self_attn.k_proj.weight'),
            r'numbers \[0, 2\]',
        ),
        (
            lambda s: s.pop(
                'quantizer.acoustic_residual_vector_quantizer.layers.1.codebook.embed_sum'
            ),
            'acoustic.rvq.codebooks.embed_avg needs 3 parts',
        ),
        (lambda s: s.pop('downsample.conv.weight'), '1 missing .encoder.downsample'),
        (lambda s: s.update({'odd.weight': torch.zeros(1)}), '1 unexpected .odd.weight'),
    ],
)
def test_weights_that_do_not_fit(change, message, tmp_path):
    state = load_file(FIXTURE / 'model.safetensors')
    change(state)
    save_file(state, tmp_path / 'model.safetensors')
    (tmp_path / 'config.json').write_text((FIXTURE / 'config.json').read_text())
    with pytest.raises(ValueError, match=message):
        ours_of(tmp_path)


@pytest.mark.parametrize(
    ('place', 'key', 'value', 'message'),
    [
        ('encoder.encoder', 'lstm', 1, 'encoder.encoder.lstm=1: only 0 is supported'),
        ('decoder.decoder', 'final_activation', 'Tanh', "final_activation='Tanh'"),
        ('decoder.decoder', 'kernel_size', 5, 'decoder.decoder.kernel_size=5 differs'),
        ('encoder.transformer', 'context', 9, 'decoder.transformer.context=7 differs'),
        ('encoder', 'pad_mode', 'constant', "encoder.pad_mode='constant'"),
        ('quantizer', 'codebook_dimension', 16, 'that of the latents'),
        ('quantizer', 'bins', 12, 'only powers of 2'),
    ],
)
def test_models_that_cannot_be_written(place, key, value, message, tmp_path):
    node = mimi.model_config(SMALL)
    part = node
    for name in place.split('.'):
        part = part[name]
    part[key] = value
    with pytest.raises(ValueError, match=message):
        mimi_export.save(config.build(node), tmp_path)


def test_a_model_of_other_parts_cannot_be_written(tmp_path):
    node = mimi.model_config(SMALL)
    node['encoder'] = node['encoder']['encoder'] | {'ratios': [4, 3, 4]}
    with pytest.raises(ValueError, match='SEANetEncoder, only TransformerEnc'):
        mimi_export.save(config.build(node), tmp_path)


def test_fixture_is_small():
    assert sum(path.stat().st_size for path in FIXTURE.iterdir()) < 300_000
    assert json.loads((FIXTURE / 'config.json').read_text())['model_type'] == 'mimi'
