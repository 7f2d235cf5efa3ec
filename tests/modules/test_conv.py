import itertools
from functools import partial

import pytest
import torch
from torch import nn

from audiocodec.modules import NormConv1d, StreamableConv1d, StreamableConvTranspose1d
from audiocodec.modules.activation import ELU
from audiocodec.modules.conv import PAD_MODES, Layers, pad1d, unpad1d


def row(*values):
    return torch.tensor([[values]], dtype=torch.float32)


def set_taps(conv, *taps):
    with torch.no_grad():
        conv.weight.copy_(row(*taps))
        conv.bias.zero_()


@pytest.mark.parametrize(
    ('mode', 'expected'),
    [
        ('constant', (0, 0, 1, 2, 3, 0)),
        ('reflect', (3, 2, 1, 2, 3, 2)),
        ('replicate', (1, 1, 1, 2, 3, 3)),
        ('circular', (2, 3, 1, 2, 3, 1)),
    ],
)
def test_pad1d_values(mode, expected):
    assert torch.equal(pad1d(row(1, 2, 3), (2, 1), mode), row(*expected))


@pytest.mark.parametrize(
    ('mode', 'paddings', 'expected'),
    [
        ('reflect', (3, 0), (0, 0, 2, 1, 2)),  # reflection of 1 2 0 0, without the two zeros
        ('reflect', (1, 3), (2, 1, 2, 0, 0, 0)),  # 2, 1 2 0 0, 0 2 1
        ('circular', (3, 0), (1, 2, 0, 1, 2)),
        ('replicate', (3, 0), (1, 1, 1, 1, 2)),
    ],
)
def test_pad1d_of_an_input_shorter_than_the_padding(mode, paddings, expected):
    assert torch.equal(pad1d(row(1, 2), paddings, mode), row(*expected))


def test_pad1d_without_padding_does_not_copy():
    x = row(1, 2)
    assert pad1d(x, (0, 0), 'reflect') is x


def test_unpad1d():
    assert torch.equal(unpad1d(row(1, 2, 3, 4), (1, 2)), row(2))
    assert torch.equal(unpad1d(row(1, 2), (0, 0)), row(1, 2))


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('pad_mode', ['constant', 'reflect', 'replicate', 'circular'])
def test_conv_has_ceil_frames_for_every_length(causal, pad_mode):
    for (kernel_size, stride, dilation), length in itertools.product(
        [(1, 1, 1), (3, 1, 4), (4, 1, 1), (6, 3, 1), (10, 5, 1), (5, 2, 1)], range(1, 14)
    ):
        conv = StreamableConv1d(
            1, 2, kernel_size, stride, dilation, causal=causal, pad_mode=pad_mode
        )
        assert conv(torch.randn(1, 1, length)).shape == (1, 2, -(-length // stride))


@pytest.mark.parametrize(
    ('kernel_size', 'dilation', 'causal', 'tap'),
    [
        (3, 1, True, 2),
        (3, 4, True, 2),
        (4, 1, True, 3),  # the last tap is at the current sample
        (3, 1, False, 1),
        (3, 4, False, 1),
        (4, 1, False, 2),  # an even kernel has the odd sample of padding on the left
    ],
)
def test_conv_is_aligned_with_its_input(kernel_size, dilation, causal, tap):
    conv = StreamableConv1d(1, 1, kernel_size, dilation=dilation, causal=causal)
    set_taps(conv.conv.conv, *(float(index == tap) for index in range(kernel_size)))
    x = torch.randn(1, 1, 20)
    assert torch.equal(conv(x), x)


def test_strided_causal_conv_ends_frames_at_their_last_sample_and_pads_the_last_window():
    conv = StreamableConv1d(1, 1, 6, stride=3, causal=True, pad_mode='constant')
    set_taps(conv.conv.conv, 0, 0, 0, 0, 0, 1)
    assert torch.equal(conv(row(1, 2, 3, 4, 5, 6, 7)), row(3, 6, 0))
    set_taps(conv.conv.conv, 1, 1, 1, 1, 1, 1)
    assert torch.equal(conv(row(1, 2, 3, 4, 5, 6, 7)), row(6, 21, 22))


def test_strided_conv_pads_both_sides_and_the_odd_sample_on_the_left():
    conv = StreamableConv1d(1, 1, 6, stride=3, pad_mode='constant')
    set_taps(conv.conv.conv, 1, 1, 1, 1, 1, 1)  # windows start at -2, 1, 4
    assert torch.equal(conv(row(1, 2, 3, 4, 5, 6, 7)), row(10, 27, 18))


@pytest.mark.parametrize(
    ('causal', 'ratio', 'expected'),
    [
        (True, 1.0, (0, 0, 0, 1, 2, 3, 4, 5, 6)),
        (True, 0.0, (1, 2, 3, 4, 5, 6, 0, 0, 0)),
        (True, 0.5, (0, 0, 1, 2, 3, 4, 5, 6, 0)),  # ceil(1.5) trimmed on the right, 1 on the left
        (False, 1.0, (0, 1, 2, 3, 4, 5, 6, 0, 0)),
    ],
)
def test_position_of_a_frame_after_a_transposed_conv(causal, ratio, expected):
    conv = StreamableConvTranspose1d(1, 1, 6, stride=3, causal=causal, trim_right_ratio=ratio)
    set_taps(conv.convtr.convtr, 1, 2, 3, 4, 5, 6)
    assert torch.equal(conv(row(0, 1, 0)), row(*expected))


def test_transposed_conv_has_stride_samples_per_frame():
    for causal, (kernel_size, stride), length in itertools.product(
        (True, False), [(2, 1), (6, 3), (16, 8), (5, 5)], (1, 2, 5)
    ):
        conv = StreamableConvTranspose1d(2, 1, kernel_size, stride, causal=causal)
        assert conv(torch.randn(1, 2, length)).shape == (1, 1, length * stride)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'kernel_size': 0}, 'kernel_size=0: expected an integer >= 1'),
        ({'kernel_size': 3.0}, 'kernel_size=3.0: expected an integer'),
        ({'stride': True}, 'stride=True: expected an integer'),
        ({'dilation': -1}, 'dilation=-1'),
        ({'kernel_size': 2, 'stride': 3}, 'kernel_size=2 .* skips samples at stride=3'),
        ({'pad_mode': 'zeros'}, "pad_mode='zeros' is unknown: choose one of constant, reflect"),
        ({'norm': 'batch_norm'}, "norm='batch_norm' is unknown: choose one of none, weight_norm"),
    ],
)
def test_conv_refuses_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        StreamableConv1d(**{'in_channels': 1, 'out_channels': 1, 'kernel_size': 3, **kwargs})


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'kernel_size': 2, 'stride': 3}, 'kernel_size=2 leaves gaps at stride=3'),
        (
            {'trim_right_ratio': 1.5, 'causal': True},
            'trim_right_ratio=1.5: expected a number from 0 to 1',
        ),
        ({'trim_right_ratio': 0.5}, 'trim_right_ratio=0.5 needs causal=True'),
    ],
)
def test_transposed_conv_refuses_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        StreamableConvTranspose1d(
            **{'in_channels': 1, 'out_channels': 1, 'kernel_size': 4, 'stride': 2, **kwargs}
        )


def test_norm_conv_passes_arguments_to_the_convolution():
    conv = NormConv1d(4, 6, 3, dilation=2, groups=2, bias=False, norm='weight_norm').conv
    assert (conv.dilation, conv.groups, conv.bias, tuple(conv.weight.shape)) == (
        (2,),
        2,
        None,
        (6, 2, 3),
    )


@pytest.mark.parametrize(('kernel_size', 'stride', 'length'), [(7, 1, 20), (8, 4, 21), (10, 5, 23)])
def test_zeros_padded_by_the_convolution_equal_explicit_padding(
    monkeypatch, kernel_size, stride, length
):
    layer = StreamableConv1d(3, 4, kernel_size, stride, pad_mode='constant', norm='weight_norm')
    x = torch.randn(2, 3, length)
    total = kernel_size - stride
    padded = torch.nn.functional.pad(x, (total - total // 2, total // 2 + -length % stride))
    torch.testing.assert_close(layer(x), layer.conv(padded))


# ---- ELU after the padding


def with_gradients(layers, x):
    layers.zero_grad()
    x = x.clone().requires_grad_()
    y = layers(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(parameter.grad.clone() for parameter in layers.parameters())]


@pytest.mark.slow
@pytest.mark.parametrize('alpha', [1.0, 0.3, -0.5])
@pytest.mark.parametrize('length', [3, 10, 11])
@pytest.mark.parametrize('causal', [True, False])
@pytest.mark.parametrize('pad_mode', PAD_MODES)
def test_layers_equal_a_plain_sequential(pad_mode, causal, length, alpha):
    torch.manual_seed(0)
    conv = partial(StreamableConv1d, causal=causal, pad_mode=pad_mode)
    layers = Layers(
        ELU(alpha),
        conv(3, 4, 7),
        ELU(alpha),
        conv(4, 4, 4, stride=2),
        ELU(alpha),
        conv(4, 3, 1),
        ELU(alpha),
        nn.Identity(),
        ELU(alpha),
        ELU(alpha),
        conv(3, 2, 3),
        ELU(alpha),
    )
    x = torch.randn(2, 3, length)
    sequential = nn.Sequential(*layers)
    for actual, expected in zip(
        with_gradients(layers, x), with_gradients(sequential, x), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        before = x.clone()
        torch.testing.assert_close(layers(x), sequential(x), rtol=1e-5, atol=1e-6)
        assert torch.equal(x, before), 'the input was overwritten'


def test_padding_and_activation_save_one_tensor():
    layers = Layers(ELU(), StreamableConv1d(1, 1, 7, causal=True, pad_mode='constant'))
    saved = set()

    def save(tensor):
        saved.add((tensor.untyped_storage().data_ptr(), tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        y = layers(torch.randn(1, 1, 100, requires_grad=True) + 0.0)
    assert [shape for _, shape in saved if shape[-1] >= 100] == [(1, 1, 106)]
    assert y.shape == (1, 1, 100)


@torch.no_grad()
def test_transposed_convolution_in_groups_without_bias():
    conv = StreamableConvTranspose1d(4, 4, 4, 2, causal=True, groups=4, bias=False)
    x = torch.randn(2, 4, 5)
    y = conv(x)
    assert [list(parameter.shape) for parameter in conv.parameters()] == [[4, 1, 4]]
    weight = conv.convtr.convtr.weight[:, 0]
    expected = x[:, :, 1] * weight[:, 0] + x[:, :, 0] * weight[:, 2]
    torch.testing.assert_close(y[..., 2], expected)
    assert y.shape == (2, 4, 10)
