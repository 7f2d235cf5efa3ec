import numpy as np
import pytest
import torch
from convolutions import assert_same, pair

from audiocodec.kernels import toom
from audiocodec.kernels.conv import FastConv2d
from audiocodec.kernels.geometry import Geometry


@pytest.fixture(autouse=True)
def used(fast_paths, monkeypatch):
    """Allow few channels and pixels; return the names of the functions that were used."""
    used = set()

    def watch(name):
        function = getattr(toom, name)
        monkeypatch.setattr(toom, name, lambda *args: used.add(name) or function(*args))

    watch('convolve')
    watch('gradients')
    monkeypatch.setattr(toom, '_MIN_CHANNELS', 16)
    monkeypatch.setattr(toom, '_MIN_PIXELS', 1)
    return used


def images(channels, height, width=3, items=2):
    draws = torch.Generator().manual_seed(0)
    return torch.randn(items, channels, height, width, generator=draws)


@pytest.mark.parametrize('taps', [4, 5])
def test_matrices_convolve_a_tile(taps):
    """Lavin and Gray, arXiv 1509.09308: y = AT ((G g) * (BT d))."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal(taps + 3)
    kernel = rng.standard_normal(taps)
    to_points, kernel_to_points, outputs = (m.double().numpy() for m in toom.matrices(taps))
    products = (kernel_to_points @ kernel) * (to_points @ inputs)
    expected = np.correlate(inputs, kernel, mode='valid')
    np.testing.assert_allclose(outputs.T @ products, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('options', [{}, {'padding': (0, 0)}, {'padding': (5, 0)}, {'bias': False}])
@pytest.mark.parametrize('height', [5, 8, 13])
@pytest.mark.parametrize('taps', [4, 5])
def test_values_and_gradients_equal_pytorch(options, height, taps, used):
    options = {'padding': (2, 0), **options}
    assert_same(*pair(FastConv2d, 16, 24, (taps, 1), **options), images(16, height))
    assert used == {'convolve', 'gradients'}


@pytest.mark.parametrize(
    ('channels', 'kernel', 'options'),
    [
        (8, (5, 1), {}),
        (16, (3, 1), {}),
        (16, (6, 1), {}),
        (16, (5, 3), {}),
        (16, (5, 1), {'stride': (3, 1)}),
        (16, (5, 1), {'dilation': (2, 1)}),
        (16, (5, 1), {'padding': (0, 1)}),
    ],
)
def test_other_convolutions_are_left_to_pytorch(channels, kernel, options, used):
    assert_same(*pair(FastConv2d, channels, 16, kernel, **options), images(channels, 20))
    assert not used


def test_few_pixels_are_left_to_pytorch(monkeypatch):
    monkeypatch.setattr(toom, '_MIN_PIXELS', 256)
    weight = torch.zeros(16, 16, 5, 1)
    geometry = Geometry((1, 1), (2, 0), (1, 1))
    assert toom.is_applicable(images(16, 64, 2), weight, geometry)
    assert not toom.is_applicable(images(16, 63, 2), weight, geometry)


def test_rounding_errors_are_small():
    x = images(512, 40, 2).double()
    draws = torch.Generator().manual_seed(1)
    weight = torch.randn(64, 512, 5, 1, generator=draws, dtype=torch.float64)
    expected = torch.nn.functional.conv2d(x, weight, padding=(2, 0))
    out = toom.convolve(x.float(), weight.float(), None, Geometry((1, 1), (2, 0), (1, 1)))
    assert ((out - expected).norm() / expected.norm()).item() < 3e-6
