import random

import pytest
import torch
from causal_codecs import mimi_codec, seanet_codec


def in_pieces(values, most, seed=0):
    """Cut [B, C, T] into pieces of 1 to `most` samples."""
    sizes, draw = [], random.Random(seed)
    while sum(sizes) < values.shape[-1]:
        sizes.append(min(draw.randint(1, most), values.shape[-1] - sum(sizes)))
    return values.split(sizes, dim=-1)


def streamed(stream, values, most):
    """Everything that comes out for values in pieces."""
    found = [stream.push(piece) for piece in in_pieces(values, most)]
    return torch.cat([*found, stream.flush()], dim=-1)


@pytest.fixture
def make_stream_codec():
    return seanet_codec


@pytest.fixture
def stream():
    return streamed


@pytest.fixture
def make_stream_mimi():
    return mimi_codec
