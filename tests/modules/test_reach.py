"""Receptive fields computed from layers equal those measured on outputs."""

import math

import pytest
import torch

from audiocodec.modules import SEANetDecoder, SEANetEncoder, VocosDecoder
from audiocodec.modules.reach import reads

SETTINGS = [
    {'causal': True, 'ratios': [3, 2]},
    {'causal': False, 'ratios': [3, 2]},
    {
        'causal': True,
        'ratios': [2, 3],
        'kernel_size': 3,
        'last_kernel_size': 5,
        'n_residual_layers': 3,
    },
    {
        'causal': False,
        'ratios': [2, 3],
        'kernel_size': 4,
        'last_kernel_size': 6,
        'n_residual_layers': 2,
        'dilation_base': 3,
        'true_skip': False,
    },
    {'causal': False, 'ratios': [5], 'residual_kernel_size': 5, 'n_residual_layers': 2},
    {
        'causal': True,
        'ratios': [4],
        'residual_kernel_size': 1,
        'n_residual_layers': 0,
        'pad_mode': 'constant',
    },
]


def influence(module, inputs, samples):
    """Return bool [samples, T_out]: which outputs change with each input sample."""
    torch.manual_seed(0)
    plain = torch.randn(1, inputs, samples, dtype=torch.float64)
    changed = plain + torch.eye(samples, dtype=torch.float64)[:, None]
    with torch.no_grad():
        return (module(changed) != module(plain)).any(1)


@pytest.mark.parametrize('settings', SETTINGS)
def test_a_frame_depends_on_exactly_these_samples(settings):
    encoder = SEANetEncoder(
        channels=1, dimension=3, n_filters=4, **{'n_residual_layers': 1, **settings}
    ).double()
    hop = encoder.hop_length
    frames = 2 * math.ceil(reads(encoder, 0, 0).last - reads(encoder, 0, 0).first) // hop + 4
    changes = influence(encoder, 1, frames * hop)
    middle = frames // 2
    found = changes[:, middle].nonzero().flatten().tolist()
    assert (found[0], found[-1]) == reads(encoder, middle, middle)
    assert reads(encoder, 0, 0) == (found[0] - middle * hop, found[-1] - middle * hop)
    if settings['causal']:
        assert reads(encoder, 0, 0).last == hop - 1


@pytest.mark.parametrize(
    ('settings', 'trim'),
    [
        (settings, trim)
        for settings in SETTINGS
        for trim in (1.0, 0.5, 0.0)
        if settings['causal'] or trim == 1.0
    ],
)
def test_a_sample_depends_on_exactly_these_frames(settings, trim):
    decoder = SEANetDecoder(
        channels=1,
        dimension=3,
        n_filters=4,
        trim_right_ratio=trim,
        **{'n_residual_layers': 1, **settings},
    ).double()
    hop, middle = decoder.hop_length, 20
    changes = influence(decoder, 3, 2 * middle + 1)
    for phase in range(hop):
        sample = middle * hop + phase
        found = changes[:, sample].nonzero().flatten().tolist()
        assert (found[0], found[-1]) == reads(decoder, sample, sample)
    found = changes[:, middle * hop : (middle + 1) * hop].any(1).nonzero().flatten().tolist()
    assert reads(decoder, 0, hop - 1) == (found[0] - middle, found[-1] - middle)


VOCOS = {'dimension': 3, 'dim': 4, 'intermediate_dim': 5, 'num_layers': 2, 'num_groups': 2}


@pytest.mark.parametrize(
    'settings',
    [{}, {'n_fft': 12}, {'n_fft': 26}, {'padding': 'center'}, {'padding': 'center', 'n_fft': 18}],
)
def test_a_sample_of_an_inverse_stft_depends_on_exactly_these_frames(settings):
    torch.manual_seed(0)
    decoder = VocosDecoder(hop_length=6, attention=False, **VOCOS, **settings).double()
    middle = 20
    changes = influence(decoder, 3, 2 * middle + 1)
    for sample in range(middle * 6, (middle + 1) * 6):
        found = changes[:, sample].nonzero().flatten().tolist()
        assert (found[0], found[-1]) == reads(decoder, sample, sample)


def test_attention_reads_everything():
    decoder = VocosDecoder(hop_length=6, **VOCOS).double().eval()
    assert influence(decoder, 3, 9).all()
    assert reads(decoder, 0, 0) == (-math.inf, math.inf)


@pytest.mark.parametrize(('stride', 'padding', 'dilation'), [(1, 3, 1), (3, 0, 2), (2, 5, 3)])
def test_a_plain_convolution_reads_its_kernel(stride, padding, dilation):
    conv = torch.nn.Conv1d(1, 1, 5, stride, padding, dilation).double()
    changes = influence(conv, 1, 60)
    for output in (8, 9):
        found = changes[:, output].nonzero().flatten().tolist()
        assert (found[0], found[-1]) == reads(conv, output, output)


def test_an_lstm_reads_all_before_and_nothing_after():
    plain = SEANetEncoder(causal=True, n_filters=2)
    recurrent = SEANetEncoder(causal=True, n_filters=2, lstm=1)
    assert reads(recurrent, 0, 0) == (-math.inf, 319)
    assert reads(recurrent, 0, 0, recurrence=False) == reads(plain, 0, 0)
    decoder = SEANetDecoder(causal=False, n_filters=2, lstm=1)
    assert reads(decoder, 0, 319).first == -math.inf
    assert reads(decoder, 0, 319).last == reads(decoder, 0, 319, recurrence=False).last > 0


def test_a_norm_over_time_reads_everything():
    encoder = SEANetEncoder(norm='time_group_norm', n_filters=2)
    assert reads(encoder, 0, 0) == reads(encoder, 0, 0, recurrence=False) == (-math.inf, math.inf)
    assert reads(SEANetDecoder(norm='time_group_norm', n_filters=2), 0, 0) == (-math.inf, math.inf)


def test_an_activation_of_ones_own_reads_what_it_writes():
    class Quick(torch.nn.ELU):
        pass

    assert reads(torch.nn.Sequential(Quick(), torch.nn.Tanh()), 3, 5) == (3, 5)


def test_layers_that_are_not_known_are_not_guessed():
    with pytest.raises(ValueError, match='receptive field of Conv2d is not known'):
        reads(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3)), 0, 0)
