import re
from pathlib import Path

import numpy as np
import pytest
import torch
from noise import noise

from audiocodec.models import padded, pretrained

FIXTURES = Path(__file__).parent.parent / 'fixtures'


def alone(model, wav, lengths):
    """Return the codes and scales of each item, encoded alone."""
    items = zip(wav, lengths)
    return [model.encode(item[None, :, :length].clone()) for item, length in items]


def assert_padded(batch, items):
    """Check that a batch has the values of its items, followed by zeros."""
    assert batch.shape == (len(items), *items[0].shape[1:-1], max(one.shape[-1] for one in items))
    for row, item in zip(batch, items):
        assert torch.equal(row[..., : item.shape[-1]], item[0])
        assert not row[..., item.shape[-1] :].any()


@torch.no_grad()
def test_every_item_of_a_padded_batch_is_as_if_it_were_alone(form):
    model = form.make().eval()
    hop = model.hop_length
    lengths = [5 * hop - 1, 9 * hop, hop + 1, 9 * hop, 1 if form.name != 'dac' else hop]
    wav = 0.3 * torch.randn(5, model.channels, 10 * hop)
    for item, length in zip(wav, lengths):
        item[:, length:] = float('nan')  # never read
    items = alone(model, wav, lengths)
    codes, scale = model.encode(wav, lengths)
    assert_padded(codes, [one for one, _ in items])
    frames = [model.frames(length) for length in lengths]
    assert [one.shape[2] for one, _ in items] == frames
    if scale is not None:
        assert_padded(scale, [one for _, one in items])
    for item, length in zip(codes, frames):
        item[:, length:] = -1  # not checked
    wav_hat = model.decode(codes, scale, frames)
    assert_padded(wav_hat, [model.decode(*one) for one in items])


@pytest.mark.parametrize('name', ['segments', 'stereo per timestep'])
def test_scales_of_missing_segments_are_zeros(make, name):
    model = make(name).eval()
    wav = 0.3 * torch.randn(3, model.channels, 200)
    lengths = [200, 30, 70]
    codes, scale = model.encode(wav.numpy(), torch.tensor(lengths))
    numbers = [model.num_scales(model.frames(length)) for length in lengths]
    assert numbers == ([5, 1, 2] if name == 'segments' else [10, 2, 4])
    assert [int((row != 0).sum()) for row in scale] == numbers
    frames = np.array([model.frames(length) for length in lengths])
    wav_hat = model.decode(codes.numpy(), scale.numpy(), frames)
    for item, row in enumerate(wav_hat):
        own = model.decode(codes[[item], :, : frames[item]], scale[[item], : numbers[item]])
        assert torch.equal(row[:, : own.shape[2]], own[0])
    with pytest.raises(ValueError, match=r'scale has shape \[2, \d+\]: expected \[3, N\]'):
        model.decode(codes, scale[:2], frames)


@pytest.mark.parametrize('name', ['mimi', 'snac/attention', 'snac/plain', 'wavtokenizer'])
@torch.no_grad()
def test_models_of_every_format_take_lengths(name):
    """With attention, strided quantizers, and spectra."""
    model = pretrained.load(str(FIXTURES / name)).eval()
    hop = model.hop_length
    lengths = [3 * hop + 1, 8 * hop, 6 * hop - 1, 8 * hop]
    wav = 0.3 * torch.randn(4, model.channels, 8 * hop)
    items = alone(model, wav, lengths)
    codes, scale = model.encode(wav, lengths)
    assert scale is None
    assert_padded(codes, [one for one, _ in items])
    frames = [model.frames(length) for length in lengths]
    assert [one.shape[2] for one, _ in items] == frames
    wav_hat = model.decode(codes, lengths=frames)
    if not name.startswith('snac'):  # its decoder adds noise
        assert_padded(wav_hat, [model.decode(one) for one, _ in items])


def test_gradients_pass_a_padded_batch(make):
    model = make('built').train()
    codes, _ = model.encode(0.3 * torch.randn(2, 1, 80), [40, 80])
    model.decode(codes, lengths=[5, 10]).square().mean().backward()
    assert model.decoder.model[0].conv.conv.bias.grad.abs().sum() > 0


def test_batches_are_split_by_length():
    wav = noise(5, 1, 9)
    groups = list(padded.by_length(wav, [9, 4, 0, 4, 9]))
    assert [group.places for group in groups] == [[0, 4], [1, 3]]
    assert torch.equal(groups[0].wav, wav[[0, 4]])
    assert torch.equal(groups[1].wav, wav[[1, 3], :, :4])


def test_items_of_equal_length_run_alone_on_a_cpu(make, monkeypatch):
    """A batch would round otherwise."""
    model = make('built').eval()
    sizes = []
    for name in ('_encode_batch', '_decode_batch'):
        run = getattr(model, name)
        monkeypatch.setattr(
            model, name, lambda x, *args, run=run: (sizes.append(len(x)), run(x, *args))[1]
        )
    codes, _ = model.encode(noise(3, 1, 80), [80, 40, 80])
    assert sizes == [1, 1, 1]
    model.decode(codes, lengths=[10, 5, 10])
    assert sizes == [1] * 6


@pytest.mark.parametrize(
    ('lengths', 'found'),
    [
        ([8, 8], r'lengths has shape \[2\]'),
        (3, r'lengths has shape \[\]'),
        ([[8], [8, 9], [8]], r'lengths is \[\[8\], \[8, 9\], \[8\]\]'),
        (torch.tensor([1.0, 2.0, 3.0]), 'lengths has type float32'),
        (np.array([True, True, True]), 'lengths has type bool'),
        ([8, 0, 8], r'lengths\[1\] is 0'),
        ([8, 8, 81], r'lengths\[2\] is 81'),
    ],
)
def test_wrong_lengths_are_refused(make, lengths, found):
    model = make('built').eval()
    wav = torch.zeros(3, 1, 80)
    expected = ': expected [3] integers, the {} of each item, from 1 to {}'
    with pytest.raises(ValueError, match=found + re.escape(expected.format('samples', 80))):
        model.encode(wav, lengths)
    codes, _ = model.encode(wav)
    with pytest.raises(ValueError, match=found + re.escape(expected.format('frames', 10))):
        model.decode(codes, lengths=lengths)


def test_wrong_codes_are_refused_with_lengths_too(make):
    model = make('built').eval()
    with pytest.raises(ValueError, match=r'codes have shape \[4, 10\]'):
        model.decode(torch.zeros(4, 10, dtype=torch.int64), lengths=[10])
    with pytest.raises(ValueError, match='codes range from -1 to -1'):
        model.decode(torch.full((1, 4, 10), -1), lengths=[10])
