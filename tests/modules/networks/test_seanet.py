import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.modules import SEANetDecoder, SEANetEncoder, SEANetResnetBlock, StreamableLSTM

SMALL = {
    'channels': 2,
    'dimension': 6,
    'n_filters': 4,
    'n_residual_layers': 1,
    'ratios': [3, 2],
    'pad_mode': 'constant',
}


def convolutions(module, cls=(nn.Conv1d, nn.ConvTranspose1d)):
    return [child for child in module.modules() if isinstance(child, cls)]


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def perturbed(module, x, start):
    """Largest change of each output frame when the input changes from `start` on."""
    changed = x.clone()
    changed[..., start:] += torch.randn_like(changed[..., start:])
    with torch.no_grad():
        return (module(x) - module(changed)).abs().amax(dim=(0, 1))


def test_base_24khz_has_the_published_size():
    options = {
        'n_residual_layers': 1,
        'norm': 'weight_norm',
        'lstm': 2,
        'causal': True,
        'pad_mode': 'constant',
    }
    encoder, decoder = SEANetEncoder(**options), SEANetDecoder(**options)
    assert (parameters(encoder), parameters(decoder)) == (7337792, 7338018)
    assert encoder.hop_length == decoder.hop_length == 320


def test_defaults_equal_those_of_audiocraft():
    encoder = SEANetEncoder()
    assert (encoder.channels, encoder.dimension, encoder.n_filters, encoder.n_residual_layers) == (
        1,
        128,
        32,
        3,
    )
    assert (encoder.ratios, encoder.hop_length, encoder.causal) == ((8, 5, 4, 2), 320, False)
    assert not any(isinstance(module, StreamableLSTM) for module in encoder.modules())
    assert {module.pad_mode for module in encoder.modules() if hasattr(module, 'pad_mode')} == {
        'reflect'
    }


def test_ratios_are_in_the_order_of_the_decoder():
    encoder = convolutions(SEANetEncoder(**SMALL, lstm=1))
    assert [conv.stride[0] for conv in encoder if conv.stride[0] > 1] == [2, 3]
    decoder = convolutions(SEANetDecoder(**SMALL, lstm=1))
    assert [conv.stride[0] for conv in decoder if conv.stride[0] > 1] == [3, 2]


def test_kernels_widths_and_dilations_follow_the_arguments():
    options = {
        **SMALL,
        'n_residual_layers': 3,
        'ratios': [2],
        'kernel_size': 5,
        'last_kernel_size': 9,
        'residual_kernel_size': 4,
        'dilation_base': 3,
        'compress': 4,
        'n_filters': 8,
    }
    encoder = [
        (conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.dilation[0])
        for conv in convolutions(SEANetEncoder(**options))
    ]
    residual = [(8, 2, 4, 1), (2, 8, 1, 1), (8, 2, 4, 3), (2, 8, 1, 1), (8, 2, 4, 9), (2, 8, 1, 1)]
    assert encoder == [(2, 8, 5, 1), *residual, (8, 16, 4, 1), (16, 6, 9, 1)]
    decoder = [
        (conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.dilation[0])
        for conv in convolutions(SEANetDecoder(**options))
    ]
    assert decoder == [(6, 16, 5, 1), (16, 8, 4, 1), *residual, (8, 2, 9, 1)]


@pytest.mark.parametrize('causal', [True, False])
@pytest.mark.parametrize('pad_mode', ['constant', 'reflect', 'replicate'])
def test_lengths(causal, pad_mode):
    options = {**SMALL, 'causal': causal, 'pad_mode': pad_mode, 'lstm': 1}
    encoder, decoder = SEANetEncoder(**options), SEANetDecoder(**options)
    for length in (1, 2, 5, 6, 7, 59, 60, 61):
        latents = encoder(torch.randn(1, 2, length))
        assert latents.shape == (1, 6, math.ceil(length / 6))
        assert decoder(latents).shape == (1, 2, 6 * latents.shape[-1])


@pytest.mark.parametrize('norm', ['none', 'weight_norm', 'spectral_norm'])
@pytest.mark.parametrize('pad_mode', ['constant', 'replicate'])
def test_causal_networks_do_not_see_the_future(norm, pad_mode):
    torch.manual_seed(0)
    options = {
        **SMALL,
        'causal': True,
        'norm': norm,
        'pad_mode': pad_mode,
        'lstm': 2,
        'n_residual_layers': 2,
    }
    encoder = SEANetEncoder(**options).eval()
    decoder = SEANetDecoder(**options).eval()
    for start in (1, 5, 6, 31):  # sample `start` belongs to frame start // 6
        change = perturbed(encoder, torch.randn(2, 2, 61), start)
        assert torch.equal(change[: start // 6], torch.zeros(start // 6))
        assert change[start // 6 :].min() > 0
    for start in (1, 5):
        change = perturbed(decoder, torch.randn(2, 6, 11), start)
        assert torch.equal(change[: 6 * start], torch.zeros(6 * start))
        assert change[6 * start :].min() > 0


def test_lookahead_equals_the_samples_trimmed_on_the_left():
    torch.manual_seed(0)
    decoder = SEANetDecoder(**{**SMALL, 'ratios': [4]}, causal=True, trim_right_ratio=0.25)
    change = perturbed(decoder, torch.randn(1, 6, 8), 5)
    # Frame 5 starts at sample 20: 3 of 4 samples are trimmed on the left.
    assert torch.equal(change[:17], torch.zeros(17))
    assert change[17:].min() > 0


@pytest.mark.parametrize('norm', ['none', 'weight_norm', 'spectral_norm', 'time_group_norm'])
def test_non_causal_networks_see_the_future(norm):
    torch.manual_seed(0)
    encoder = SEANetEncoder(**SMALL, norm=norm).eval()
    decoder = SEANetDecoder(**SMALL, norm=norm).eval()
    assert perturbed(encoder, torch.randn(1, 2, 61), 31)[4] > 0
    assert perturbed(decoder, torch.randn(1, 6, 11), 5)[29] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ('causal', 'norm'),
    [
        (causal, norm)
        for causal in (True, False)
        for norm in ('none', 'weight_norm', 'spectral_norm', 'time_group_norm')
        if not (causal and norm == 'time_group_norm')
    ],
)
def test_every_combination_of_options_trains_all_its_parameters(causal, norm):
    torch.manual_seed(0)
    for true_skip, lstm, outer, pad_mode, residual in itertools.product(
        (True, False), (0, 2), (0, 3), ('constant', 'circular'), (0, 2)
    ):
        options = {
            **SMALL,
            'causal': causal,
            'norm': norm,
            'true_skip': true_skip,
            'lstm': lstm,
            'pad_mode': pad_mode,
            'disable_norm_outer_blocks': outer,
            'n_residual_layers': residual,
        }
        model = nn.Sequential(
            SEANetEncoder(**options), SEANetDecoder(**options, final_activation='Tanh')
        )
        x = torch.randn(2, 2, 20)
        y = model(x)
        assert y.abs().max() <= 1
        (y[..., :20] - x).square().mean().backward()
        untrained = [
            name
            for name, parameter in model.named_parameters()
            if not parameter.grad.abs().max() > 0
        ]
        assert untrained == [], (options, untrained)


@pytest.mark.parametrize('cls', [SEANetEncoder, SEANetDecoder])
def test_disable_norm_outer_blocks_counts_from_the_waveform(cls):
    # Convolutions per block of SMALL, from the waveform: one, two stages of three (strided, and two
    # in a residual block), one.
    sizes = [1, 3, 3, 1]
    for disabled in range(5):
        convs = convolutions(cls(**SMALL, norm='weight_norm', disable_norm_outer_blocks=disabled))
        from_waveform = [hasattr(conv, 'parametrizations') for conv in convs]
        if cls is SEANetDecoder:
            from_waveform.reverse()
        assert from_waveform == [False] * sum(sizes[:disabled]) + [True] * sum(sizes[disabled:])


def test_activation_and_its_parameters_are_used_everywhere():
    model = SEANetDecoder(
        **SMALL,
        activation='LeakyReLU',
        activation_params={'negative_slope': 0.3},
        final_activation='Hardtanh',
        final_activation_params={'max_val': 0.5},
    )
    slopes = [
        module.negative_slope for module in model.modules() if isinstance(module, nn.LeakyReLU)
    ]
    assert slopes == [0.3] * 7
    assert model.model[-1].max_val == 0.5


def test_true_skip_is_the_identity():
    torch.manual_seed(0)
    x = torch.randn(1, 4, 9)
    block = SEANetResnetBlock(4)
    torch.testing.assert_close(block(x) - block.block(x), x)
    block = SEANetResnetBlock(4, true_skip=False)
    torch.testing.assert_close(block(x) - block.block(x), block.shortcut(x))
    assert block.shortcut.conv.conv.kernel_size == (1,)


@pytest.mark.parametrize('cls', [SEANetEncoder, SEANetDecoder])
@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'channels': 0}, 'channels=0: expected an integer >= 1'),
        ({'dimension': '128'}, "dimension='128': expected an integer"),
        ({'n_filters': -4}, 'n_filters=-4'),
        ({'n_residual_layers': -1}, 'n_residual_layers=-1: expected an integer >= 0'),
        ({'ratios': []}, r'ratios=\[\]: expected a non-empty list of integers >= 1'),
        ({'ratios': 320}, 'ratios=320: expected a non-empty list'),
        ({'ratios': [8, 0]}, r'ratios=\[8, 0\]'),
        ({'activation': 'Swish'}, "activation='Swish' is not a module of torch.nn"),
        ({'activation_params': {'beta': 1}}, "{'beta': 1} do not fit the activation ELU"),
        ({'norm': 'layer_norm', 'disable_norm_outer_blocks': 4}, "norm='layer_norm' is unknown"),
        ({'norm': 'time_group_norm', 'causal': True}, 'a causal model must not see'),
        ({'norm': 'weight_norm', 'norm_params': {'eps': 1}}, 'takes no arguments'),
        ({'kernel_size': 0}, 'kernel_size=0'),
        ({'last_kernel_size': 0}, 'last_kernel_size=0'),
        ({'residual_kernel_size': 0}, 'residual_kernel_size=0'),
        ({'dilation_base': 0}, 'dilation_base=0'),
        ({'pad_mode': 'zero'}, "pad_mode='zero' is unknown"),
        ({'compress': 0}, 'compress=0'),
        ({'compress': 8}, 'compress=8 leaves no channel in a residual block of 4'),
        ({'lstm': -1}, 'lstm=-1: expected an integer >= 0'),
        (
            {'disable_norm_outer_blocks': 5},
            'disable_norm_outer_blocks=5: expected an integer from 0 to 4',
        ),
    ],
)
def test_networks_refuse_bad_arguments(cls, kwargs, message):
    with pytest.raises(ValueError, match=message):
        cls(**{**SMALL, **kwargs})


def test_a_norm_needs_more_than_one_value_per_frame():
    options = {**SMALL, 'norm': 'time_group_norm', 'causal': False}
    with pytest.raises(ValueError, match="dimension=1: expected at least 2 with norm='time_gr"):
        SEANetEncoder(**{**options, 'dimension': 1})
    encoder = SEANetEncoder(**{**options, 'dimension': 2})
    assert encoder(torch.randn(1, 2, encoder.hop_length)).shape == (1, 2, 1)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'trim_right_ratio': 0.5}, 'trim_right_ratio=0.5 needs causal=True'),
        ({'trim_right_ratio': -0.5, 'causal': True}, 'expected a number from 0 to 1'),
        ({'final_activation': 'tanh'}, "activation='tanh' is not a module"),
    ],
)
def test_decoder_refuses_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SEANetDecoder(**SMALL, **kwargs)


def test_resnet_block_refuses_unequal_lists():
    with pytest.raises(ValueError, match='must have the same length'):
        SEANetResnetBlock(4, kernel_sizes=(3, 1), dilations=(1,))


@pytest.mark.parametrize('samples', [1, 7, 8, 9, 23, 24])
def test_the_input_may_be_padded_to_whole_frames_once(samples):
    torch.manual_seed(0)
    encoder = SEANetEncoder(n_filters=2, dimension=3, ratios=(4, 2), pad_mode='constant')
    padded = SEANetEncoder(
        n_filters=2, dimension=3, ratios=(4, 2), pad_mode='constant', pad_input=True
    )
    padded.load_state_dict(encoder.state_dict())
    x = torch.randn(2, 1, samples)
    frames = -(-samples // 8)
    y = padded(x)
    assert y.shape == (2, 3, frames)
    torch.testing.assert_close(y, encoder(F.pad(x, (0, 8 * frames - samples))))
    if samples % 8:
        assert not torch.allclose(y, encoder(x))


@pytest.mark.parametrize('length', [1, 5, 6, 7, 13])
def test_padding_the_input_equals_whole_frames(length):
    torch.manual_seed(0)
    plain = SEANetEncoder(**SMALL)
    padded = SEANetEncoder(**SMALL, pad_input=True)
    padded.load_state_dict(plain.state_dict())
    x = torch.randn(2, 2, length)
    frames = math.ceil(length / 6)
    whole = nn.functional.pad(x, (0, 6 * frames - length))
    z = padded(x)
    assert z.shape == (2, 6, frames)
    assert torch.equal(z, plain(whole))
    assert torch.equal(z, plain(x)) == (length % 6 == 0)


def test_trimming_odd_strides_shortens_their_output_and_ends_in_zeros():
    torch.manual_seed(0)
    options = {**SMALL, 'ratios': [3, 5, 2]}
    decoder, trimmed = SEANetDecoder(**options), SEANetDecoder(**options, trim_odd=True)
    trimmed.load_state_dict(decoder.state_dict())
    z = torch.randn(1, 6, 20)
    y, expected = trimmed(z), decoder(z)
    assert y.shape == expected.shape == (1, 2, 600)
    missing = (1 * 5 + 1) * 2  # one sample after the first stride and one after the second
    assert torch.equal(y[..., -missing:], torch.zeros(1, 2, missing))
    assert y[..., -missing - 1].abs().min() > 0
    torch.testing.assert_close(y[..., :500], expected[..., :500], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match='trim_odd=True needs causal=False'):
        SEANetDecoder(**options, trim_odd=True, causal=True)
