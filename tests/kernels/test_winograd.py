import numpy as np
import pytest
import torch
from convolutions import assert_same, images, pair

from audiocodec.kernels import winograd
from audiocodec.kernels.conv import FastConv2d
from audiocodec.kernels.geometry import Geometry


@pytest.fixture(autouse=True)
def enabled(fast_paths, monkeypatch):
    """Enable Winograd on any CPU."""
    monkeypatch.setattr(winograd, 'IS_FASTER', True)


def test_matrices_convolve_a_tile():
    """Lavin and Gray, arXiv 1509.09308: y = AT ((G g) * (BT d))."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal(6)
    taps = rng.standard_normal(3)
    products = (winograd._G.double().numpy() @ taps) * (winograd._BT @ inputs)
    expected = np.correlate(inputs, taps, mode='valid')
    np.testing.assert_allclose(winograd._AT @ products, expected, rtol=1e-6)


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'dilation': (2, 1)},
        {'dilation': (4, 1)},
        {'stride': 1},
        {'dilation': (1, 2)},
        {'padding': (0, 4)},
        {'padding': (3, 0)},
        {'bias': False},
    ],
)
@pytest.mark.parametrize('height', [9, 16, 22])
def test_values_and_gradients_equal_pytorch(options, height, fast_paths):
    options = {'stride': (1, 2), 'padding': (options.get('dilation', (1, 1))[0], 4), **options}
    assert_same(*pair(FastConv2d, 16, 32, (3, 9), **options), images(16, height, items=3))
    assert fast_paths == {'convolve', 'gradients'}


def test_batches_are_computed_in_chunks(fast_paths, monkeypatch):
    x = images(16, items=5)
    # Two items at a time, and one at the end.
    monkeypatch.setattr(winograd, '_CHUNK_BYTES', 2 * x[0].numel() * 6 + 1)
    chunks = [part for part, _ in winograd._chunks(x, Geometry((1, 2), (1, 4), (1, 1)))]
    assert chunks == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert_same(*pair(FastConv2d, 16, 32, (3, 9), stride=(1, 2), padding=(1, 4)), x)
    assert fast_paths == {'convolve', 'gradients'}


@pytest.mark.parametrize('frozen', ['input', 'weight'])
def test_only_needed_gradients_are_computed(frozen, monkeypatch):
    fast, plain = pair(FastConv2d, 16, 32, (3, 9), padding=(1, 4))
    x = images(16)
    made = []
    monkeypatch.setattr(
        winograd, 'gradients', lambda *args, f=winograd.gradients: made.append(f(*args)) or made[-1]
    )
    for conv, image in ((fast, x), (plain, x.double())):
        conv.weight.requires_grad_(frozen != 'weight')
        image.requires_grad_(frozen != 'input')
        conv(image).square().sum().backward()
        needed = image if frozen == 'weight' else conv.weight
        if conv is fast:
            grad = needed.grad.double()
    tolerance = 3e-6 * needed.grad.abs().max().item()
    torch.testing.assert_close(grad, needed.grad, rtol=0, atol=tolerance)
    ((x_grad, weight_grad),) = made
    assert (x_grad is None) == (frozen == 'input')
    assert (weight_grad is None) == (frozen == 'weight')


@pytest.mark.parametrize(
    'change',
    [
        {'stride': (2, 2)},
        {'kernel_size': (5, 9), 'padding': (2, 4)},
        {'kernel_size': (3, 3), 'padding': 1},
        {'in_channels': 8},
        {'out_channels': 1},
    ],
)
def test_unsuitable_convolutions_do_not_use_it(change, fast_paths):
    options = {
        'in_channels': 16,
        'out_channels': 16,
        'kernel_size': (3, 9),
        'padding': (1, 4),
        **change,
    }
    assert_same(*pair(FastConv2d, **options), images(options['in_channels']))
    assert 'convolve' not in fast_paths


def test_unsuitable_inputs_do_not_use_it():
    weight = torch.zeros(16, 16, 3, 9)
    geometry = Geometry((1, 1), (1, 4), (1, 1))
    assert winograd.is_applicable(images(16), weight, geometry)
    assert not winograd.is_applicable(images(16).contiguous(), weight, geometry)
    assert not winograd.is_applicable(images(16, items=0), weight, geometry)
