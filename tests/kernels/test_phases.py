import pytest
import torch
from convolutions import assert_same, pair

from audiocodec.kernels import phases
from audiocodec.kernels.conv import FastConv1d
from audiocodec.kernels.geometry import Geometry


@pytest.fixture(autouse=True)
def used(fast_paths, monkeypatch):
    """Allow few channels and tiles; return the names of the functions that were used."""
    used = set()

    def watch(name):
        function = getattr(phases, name)
        monkeypatch.setattr(phases, name, lambda *args: used.add(name) or function(*args))

    watch('convolve')
    watch('gradients')
    monkeypatch.setattr(phases, '_MIN_CHANNELS', 16)
    monkeypatch.setattr(phases, '_MIN_TILES', 1)
    return used


def audio(channels, length, items=3):
    draws = torch.Generator().manual_seed(0)
    return torch.randn(items, channels, length, generator=draws)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('length', [72, 73, 75, 107])
@pytest.mark.parametrize('dilation', [1, 3, 9])
def test_values_and_gradients_equal_pytorch(dilation, length, bias, used):
    options = {'dilation': dilation, 'padding': 3 * dilation, 'bias': bias}
    assert_same(*pair(FastConv1d, 16, 24, 7, **options), audio(16, length))
    assert used == {'convolve', 'gradients'}


def test_one_item_at_a_time_equals_all(monkeypatch, used):
    monkeypatch.setattr(phases, '_CHUNK_VALUES', 1)
    convs = pair(FastConv1d, 16, 24, 7, dilation=3, padding=9)
    assert_same(*convs, audio(16, 50))
    assert used == {'convolve', 'gradients'}


def test_only_needed_gradients(used):
    x, weight, grad = audio(16, 40), torch.randn(24, 16, 7), audio(24, 40)
    geometry = Geometry((1,), (3,), (1,))
    both = phases.gradients(grad, x, weight, geometry, True, True)
    torch.testing.assert_close(
        phases.gradients(grad, x, weight, geometry, True, False)[0], both[0], rtol=0, atol=0
    )
    torch.testing.assert_close(
        phases.gradients(grad, x, weight, geometry, False, True)[1], both[1], rtol=0, atol=0
    )
    assert phases.gradients(grad, x, weight, geometry, True, False)[1] is None
    assert phases.gradients(grad, x, weight, geometry, False, False) == (None, None)


@pytest.mark.parametrize(
    ('channels', 'kernel', 'length', 'options'),
    [
        (8, 7, 64, {'padding': 3}),
        (16, 5, 64, {'padding': 2}),
        (16, 8, 64, {'padding': 3}),
        (16, 7, 64, {'padding': 0}),
        (16, 7, 64, {'padding': 3, 'stride': 2}),
        (16, 7, 64, {'padding': 3, 'dilation': 3}),
        (16, 7, 71, {'padding': 27, 'dilation': 9}),
    ],
)
def test_other_convolutions_are_left_to_pytorch(channels, kernel, length, options, used):
    assert_same(*pair(FastConv1d, channels, 16, kernel, **options), audio(channels, length))
    assert not used


def test_second_derivatives(used):
    fast, plain = pair(FastConv1d, 16, 16, 7, padding=9, dilation=3)
    found = []
    for conv in (fast, plain):
        x = audio(16, 40).to(conv.weight.dtype).requires_grad_()
        (slope,) = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), conv.weight)[0].double())
    torch.testing.assert_close(*found, rtol=0, atol=1e-5 * found[1].abs().max().item())


def test_inference_is_left_to_pytorch(used):
    fast, plain = pair(FastConv1d, 16, 16, 7, padding=3)
    with torch.no_grad():
        out = fast(audio(16, 64))
        torch.testing.assert_close(out, plain.float()(audio(16, 64)), rtol=0, atol=0)
    assert not used


def test_few_tiles_are_left_to_pytorch(monkeypatch):
    monkeypatch.setattr(phases, '_MIN_TILES', 128)
    weight, geometry = torch.zeros(16, 16, 7), Geometry((1,), (3,), (1,))
    assert phases.is_applicable(audio(16, 256, items=2), weight, geometry)
    assert not phases.is_applicable(audio(16, 255, items=2), weight, geometry)


def test_rounding_errors_are_small():
    x = audio(512, 60).double()
    draws = torch.Generator().manual_seed(1)
    weight = torch.randn(64, 512, 7, generator=draws, dtype=torch.float64)
    expected = torch.nn.functional.conv1d(x, weight, padding=9, dilation=3)
    out = phases.convolve(x.float(), weight.float(), None, Geometry((1,), (9,), (3,)))
    assert ((out - expected).norm() / expected.norm()).item() < 2e-6
