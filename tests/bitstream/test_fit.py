"""Tables learn the statistics of codes: frequencies, the frames before, and the levels above."""

import numpy as np
import pytest
import torch

from audiocodec.bitstream import fit, fit_tables

CARDINALITY = 16


def draw(frames, seed=0):
    """Codes [3, n]: skewed; a function of the frame before, mostly; one of the level above."""
    rng = np.random.default_rng(seed)
    first = np.minimum(rng.geometric(0.3, frames) - 1, CARDINALITY - 1)
    second = np.zeros(frames, np.int64)
    noise = rng.integers(0, CARDINALITY, frames)
    for frame in range(frames):
        is_noise = rng.random() < 0.1
        second[frame] = noise[frame] if is_noise else (second[frame - 1] * 5 + 3) % CARDINALITY
    third = np.where(rng.random(frames) < 0.1, noise, (first * 7 + 2) % CARDINALITY)
    return torch.from_numpy(np.stack((first, second, third)))


@pytest.fixture(scope='module')
def tables():
    return fit_tables([draw(4000, seed) for seed in range(10)], CARDINALITY, 50, b'8 bytes!')


def entropy(probabilities):
    return -sum(p * np.log2(p) for p in probabilities if p)


def test_bits_come_near_the_entropy(tables):
    held_out = draw(5000, seed=100)
    packets = [part.numpy() for part in held_out.split(50, dim=1)]
    bits = sum(tables.bits(packet) for packet in packets) / 5000
    skewed = [0.3 * 0.7**one for one in range(CARDINALITY - 1)]
    expected = entropy([*skewed, 1 - sum(skewed)])
    noise = entropy([0.9 + 0.1 / 16, *[0.1 / 16] * 15])
    # a first frame in 50 of level 1 has nothing before
    assert bits[0] == pytest.approx(expected, rel=0.02)
    assert bits[1] == pytest.approx(noise + 4 / 50, rel=0.25)
    assert bits[2] == pytest.approx(noise, rel=0.25)
    message = sum(len(tables.encode(packet)) for packet in packets)
    assert 8 * message / 5000 == pytest.approx(bits.sum(), rel=0.05)


def test_contexts_end_with_the_packet():
    codes = torch.arange(7).expand(2, -1) * torch.tensor([[1], [2]])
    age = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    values = fit._context_values(codes, age, 1, 99)
    assert values.tolist() == [[99, 0, 2, 4, 99, 8, 10], [99, 99, 0, 2, 99, 99, 8], [*range(7)]]


def test_the_fit_is_reproducible():
    items = [draw(2100)]
    assert fit_tables(items, CARDINALITY, 50).hash == fit_tables(items, CARDINALITY, 50).hash


def test_refusals():
    with pytest.raises(ValueError, match='100 frames are too few'):
        fit_tables([draw(100)], CARDINALITY, 50)
    with pytest.raises(ValueError, match='0 frames are too few'):
        fit_tables([], CARDINALITY, 50)
    with pytest.raises(ValueError, match='codebooks of 65536 entries are too large'):
        fit_tables([draw(3000)], 65536, 50)
