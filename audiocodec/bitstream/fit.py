"""Fitting tables to the codes of audio: log-bilinear regression, then rounding to integers."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional as F

from audiocodec.bitstream.header import NO_HASH
from audiocodec.bitstream.tables import (
    ABOVE,
    MAX_CARDINALITY,
    OCTAVE,
    PAST,
    SHIFT,
    Level,
    Tables,
)
from audiocodec.utils.progress import Progress

_DIMENSION = 32
_BATCH = 2048  # frames per update
_LR = 0.01
_FINAL_LR = 0.02  # fraction
_PASSES = 4  # over the frames
_SPREAD = 0.1  # of the initial factors
_LARGEST = 127  # int8
_SCALE = OCTAVE * 2**SHIFT / math.log(2)  # integer for one unit of a natural logarithm


def fit_tables(
    items: Sequence[torch.Tensor],
    cardinality: int,
    frames_per_packet: int,
    model_hash: bytes = NO_HASH,
) -> Tables:
    """Fit the tables of a model to its codes.

    Args:
        items: codes [K, n] of recordings, with all codebooks that streams may have.
        cardinality: entries of each codebook.
        frames_per_packet: frames after which contexts begin anew.
        model_hash: `hash_of` the model.

    Raises:
        ValueError: too many entries, or not enough frames.
    """
    if cardinality > MAX_CARDINALITY:
        raise ValueError(
            f'codebooks of {cardinality} entries are too large for tables, which have at most '
            f'{MAX_CARDINALITY}: encode without tables'
        )
    parts = [part for item in items for part in item.split(frames_per_packet, dim=-1)]
    codes = torch.cat(parts, dim=-1) if parts else torch.empty(1, 0)
    frames = codes.shape[-1]
    if frames < _BATCH:
        raise ValueError(f'{frames} frames are too few to fit tables, which need {_BATCH}')
    age = torch.cat([torch.arange(part.shape[-1]) for part in parts])  # frames since the start
    with Progress(range(len(codes)), desc='Fit', unit='level') as levels:
        found = [_fit_level(codes, age, level, cardinality) for level in levels]
    return Tables(found, model_hash)


def _fit_level(codes: torch.Tensor, age: torch.Tensor, level: int, cardinality: int) -> Level:
    """Fit the factors of a level to codes [K, N]; reproducible."""
    generator = torch.Generator().manual_seed(level)

    def initial(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).mul_(_SPREAD).requires_grad_()

    values = _context_values(codes, age, level, cardinality)
    counts = torch.bincount(codes[level], minlength=cardinality) + 0.5
    bias = (counts / counts.sum()).log().requires_grad_()
    left = initial(cardinality, _DIMENSION)
    right = initial(len(values), cardinality + 1, _DIMENSION)
    optimizer = torch.optim.Adam([left, bias, right], lr=_LR)
    batches = codes.shape[1] // _BATCH
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, _FINAL_LR, _PASSES * batches)
    which = torch.arange(len(values))[:, None]
    for chosen in _batches(codes.shape[1], batches, generator):
        products = right[which, values[:, chosen]].sum(0) @ left.T
        loss = F.cross_entropy(products + bias, codes[level, chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return _to_integers(left.detach(), bias.detach(), right.detach())


def _batches(frames: int, batches: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield the indexes of each update's frames."""
    for _ in range(_PASSES):
        order = torch.randperm(frames, generator=generator)
        yield from order[: batches * _BATCH].split(_BATCH)


def _context_values(
    codes: torch.Tensor, age: torch.Tensor, level: int, cardinality: int
) -> torch.Tensor:
    """Return the values of the contexts of a level, [PAST + A, N]; see `Level.contexts`."""
    past = []
    for back in range(1, PAST + 1):
        past.append(torch.where(age < back, cardinality, codes[level].roll(back)))
    return torch.stack((*past, *codes[max(0, level - ABOVE) : level]))


def _to_integers(left: torch.Tensor, bias: torch.Tensor, right: torch.Tensor) -> Level:
    """Round the factors to int8, with the same range for both of each dimension."""
    largest = [part.abs().flatten(0, -2).amax(0).clamp(min=1e-9) for part in (left, right)]
    balance = (largest[1] / largest[0]).sqrt()
    scale = math.sqrt(_SCALE)
    factors = [
        (part * scale).round().clamp(-_LARGEST, _LARGEST).to(torch.int8).numpy()
        for part in (left * balance, right / balance)
    ]
    rounded = ((bias - bias.max()) * _SCALE).round().to(torch.int32).numpy()
    return Level(factors[0], rounded, factors[1])
