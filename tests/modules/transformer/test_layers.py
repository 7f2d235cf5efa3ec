"""Causal windowed transformer: what frames depend on, and the plain formulas as a reference."""

import math

import pytest
import torch

from audiocodec.modules import Transformer
from audiocodec.modules.transformer.layers import rotate, rotation_of, windowed_attention

CONTEXT = 5


def make(num_layers=2, **kwargs):
    torch.manual_seed(0)
    options = {'num_heads': 2, 'hidden_dimension': 24, 'context': CONTEXT, 'layer_scale': 0.5}
    return Transformer(8, num_layers, **{**options, **kwargs}).double().eval()


def reference(q, k, v, context):
    """Attend with a dense mask."""
    frames = q.shape[2]
    delay = torch.arange(frames)[:, None] - torch.arange(frames)
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    scores = scores.masked_fill((delay < 0) | (delay >= context), -torch.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize('frames', [1, 4, 5, 6, 10, 11, 15, 23, 25])
def test_attention_is_that_of_a_dense_band(frames):
    torch.manual_seed(frames)
    q, k, v = torch.randn(3, 2, 3, frames, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, frames, 4, dtype=torch.float64)
    results = []
    for attend in (windowed_attention, reference):
        y = attend(q, k, v, CONTEXT)
        results.append((y, *torch.autograd.grad((y * weights).sum(), (q, k, v))))
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('frames', [9, 31])
@torch.no_grad()
def test_frames_depend_on_the_window_of_each_layer_and_on_nothing_else(frames):
    model = make()
    x = torch.randn(1, 8, frames, dtype=torch.float64)
    y = model(x)
    reach = 2 * (CONTEXT - 1)
    for position in (0, 3, frames - 1):
        changed = x.clone()
        changed[..., position] += torch.randn(8, dtype=torch.float64)
        moved = (model(changed) - y).abs().amax(1)[0]
        inside = slice(position, min(frames, position + reach + 1))
        assert moved[inside].min() > 1e-9
        assert moved[:position].numel() == 0 or moved[:position].max() < 1e-12
        assert moved[position + reach + 1 :].numel() == 0 or (
            moved[position + reach + 1 :].max() < 1e-12
        )


@torch.no_grad()
def test_positions_are_relative():
    """A window of its own, far from the beginning, gives the frame that it ends with."""
    model = make(num_layers=1)
    x = torch.randn(2, 8, 40, dtype=torch.float64)
    y = model(x)
    torch.testing.assert_close(
        y[..., 30], model(x[..., 31 - CONTEXT : 31])[..., -1], rtol=0, atol=1e-6
    )


def test_rotation():
    rotation = rotation_of(3, 4, 100.0, torch.device('cpu'))
    assert rotation.shape == (2, 3, 2)
    torch.testing.assert_close(rotation[0, 2], torch.tensor([2.0, 0.2]).cos())
    x = torch.tensor([1.0, 0.0, 0.0, 1.0]).expand(1, 3, 4)
    y = rotate(x, rotation)[0, 1]
    expected = [math.cos(1), -math.sin(0.1), math.sin(1), math.cos(0.1)]
    torch.testing.assert_close(y, torch.tensor(expected))


@torch.no_grad()
def test_layers_start_small():
    model = Transformer(8, 1, 2, 24, CONTEXT)
    x = torch.randn(1, 8, 12)
    change = (model(x) - x).std() / x.std()
    assert 0 < change < 0.02
    assert all(
        torch.equal(m.scale, torch.full((8,), 0.01)) for m in model.modules() if has_scale(m)
    )
    names = dict(Transformer(8, 1, 2, 24, CONTEXT, layer_scale=None).named_parameters())
    assert not any('scale' in name for name in names)
    assert not any('attention' in name and 'bias' in name for name in names)


def has_scale(module):
    return hasattr(module, 'scale')


def test_memory_is_linear_in_the_number_of_frames():
    model = Transformer(8, 1, 2, 8, 64)
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        model(torch.randn(1, 8, 64 * 64))
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    # a dense mask would take 16 MB
    assert largest < 2e6


@pytest.mark.slow
@torch.no_grad()
def test_one_exported_program_serves_all_lengths():
    model = make().float()
    shapes = {0: torch.export.Dim('batch', min=1), 2: torch.export.Dim('frames', min=1)}
    program = torch.export.export(
        model, (torch.randn(2, 8, 13),), dynamic_shapes=(shapes,), strict=False
    ).module()
    for frames in (1, 5, 11, 40):
        x = torch.randn(3, 8, frames)
        torch.testing.assert_close(program(x), model(x))


def test_gradients_reach_every_parameter():
    model = make()
    model(torch.randn(2, 8, 13, dtype=torch.float64)).square().mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_half_precision_by_autocast():
    model = Transformer(8, 1, 2, 8, CONTEXT)
    x = torch.randn(1, 8, 17)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        y = model(x)
    torch.testing.assert_close(y.float(), model(x), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'dimension': 12, 'num_heads': 4}, 'dimension=12 is not a multiple of 8'),
        ({'context': 0}, 'context=0: expected an integer >= 1'),
        ({'num_layers': 0}, 'num_layers=0'),
        ({'max_period': 1.0}, 'max_period=1.0: expected a number above 1'),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        Transformer(**options)


@pytest.mark.parametrize('sizes', [[1] * 20, [3, 1, 7, 9], [20]])
def test_pieces_of_a_signal_are_the_whole(sizes):
    model = make(num_layers=3)
    x = torch.randn(2, 8, 20, dtype=torch.float64)
    pasts = [{'keys': None, 'values': None} for _ in model.layers]
    found, position = [], 0
    with torch.no_grad():
        for piece in x.split(sizes, dim=-1):
            found.append(model.advance(piece, position, pasts))
            position += piece.shape[-1]
            kept = min(position, CONTEXT - 1)
            assert all(past['keys'].shape == (2, 2, kept, 4) for past in pasts)
        torch.testing.assert_close(torch.cat(found, -1), model(x))
