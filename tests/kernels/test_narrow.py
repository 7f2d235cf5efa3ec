import pytest
import torch
from convolutions import assert_same, images, pair

from audiocodec.kernels import narrow
from audiocodec.kernels.conv import FastConv2d


@pytest.mark.parametrize(
    ('channels', 'kernel', 'width'),
    [
        (2, (3, 9), 65),
        (2, (3, 9), 64),
        (2, (3, 9), 7),
        (2, (3, 9), 8),
        (1, (5, 3), 33),
        (4, (3, 9), 30),
        (8, (1, 5), 21),
    ],
)
def test_convolutions_with_few_channels_use_it(channels, kernel, width, fast_paths):
    padding = (kernel[0] // 2, kernel[1] // 2)
    for image in (images(channels, 6, width), images(channels, 6, width).contiguous()):
        assert_same(*pair(FastConv2d, channels, 32, kernel, padding=padding), image)
    assert fast_paths == {'input_gradient'}


def test_input_gradient_by_hand():
    """A kernel of 1 2 3 along the row: dx[i] = 1 dy[i + 1] + 2 dy[i] + 3 dy[i - 1]."""
    weight = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    grad = torch.tensor([1.0, 0.0, 0.0, 10.0]).view(1, 1, 1, 4)
    assert narrow.input_gradient(grad, weight).flatten().tolist() == [2, 3, 10, 20]


@pytest.mark.parametrize(
    'options',
    [
        {'in_channels': 16},
        {'in_channels': 3},
        {'stride': (1, 2)},
        {'dilation': (2, 1)},
        {'padding': 0},
        {'padding': 'same'},
        {'in_channels': 4, 'groups': 2},
        {'padding_mode': 'reflect'},
        {'kernel_size': (2, 9)},
    ],
)
def test_other_convolutions_do_not_use_it(options, fast_paths):
    options = {
        'in_channels': 2,
        'out_channels': 4,
        'kernel_size': (3, 9),
        'padding': (1, 4),
        **options,
    }
    assert_same(*pair(FastConv2d, **options), images(options['in_channels']))
    assert not fast_paths


@pytest.mark.parametrize(
    ('channels', 'kernel', 'padding', 'expected'),
    [
        (2, (3, 9), (1, 4), True),
        (8, (3, 9), (1, 4), True),
        (16, (3, 9), (1, 4), False),  # no channel is computed in vain
        (3, (3, 9), (1, 4), False),  # does not divide 16
        (2, (3, 9), (1, 3), False),  # changes the size
        (2, (9,), (4,), False),
    ],
)
def test_is_applicable(channels, kernel, padding, expected):
    ones = (1,) * len(kernel)
    assert narrow.is_applicable(channels, kernel, ones, padding, ones) == expected
