"""Padded batches: items of different lengths, each computed without its padding."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

Lengths = torch.Tensor | np.ndarray | Sequence[int]
Encoded = tuple[torch.Tensor, torch.Tensor | None]  # codes and scale


class Group(NamedTuple):
    """Items of a batch that have the same length.

    Attributes:
        places: their places in the batch.
        wav: [B, C, T], or codes [B, K, T_frames], without padding.
    """

    places: list[int]
    wav: torch.Tensor


def by_length(batch: torch.Tensor, lengths: Sequence[int]) -> Iterator[Group]:
    """Split a padded batch by length, so that no model sees padding.

    Args:
        batch: [B, C, T].
        lengths: samples of each item without padding.

    Yields:
        The groups, in the order of their first items; items without samples are left out.
    """
    for length in dict.fromkeys(lengths):
        if length > 0:
            places = [place for place, other in enumerate(lengths) if other == length]
            yield Group(places, batch[places, :, :length])


def encode(run: Callable[[Any], Encoded], wav: torch.Tensor, lengths: Lengths) -> Encoded:
    """Encode a padded batch [B, C, T]; see `CompressionModel.encode`.

    Args:
        run: encodes items of one length.
        wav: the batch.
        lengths: samples of each item.

    Raises:
        ValueError: lengths of a wrong type or shape, or out of range.
    """
    samples = check_lengths('samples', lengths, len(wav), wav.shape[2])
    codes, scales = [], []
    for places, part in _groups(wav, samples, wav.device.type == 'cpu'):
        found, scale = run(part)
        codes.append(Group(places, found))
        if scale is not None:
            scales.append(Group(places, scale))
    return _join(codes, len(wav)), _join(scales, len(wav)) if scales else None


def decode(
    run: Callable[[Any, torch.Tensor | None], torch.Tensor],
    num_scales: Callable[[int], int],
    codes: torch.Tensor | np.ndarray,
    scale: torch.Tensor | None,
    lengths: Lengths,
    alone: bool,
) -> torch.Tensor:
    """Decode a padded batch of codes [B, K, T_frames]; see `CompressionModel.decode`.

    Args:
        run: decodes items of one length.
        num_scales: returns the number of scales of an item, given its frames.
        codes: the batch.
        scale: [B, N], or None.
        lengths: frames of each item.
        alone: run items of equal length one by one, too.

    Raises:
        ValueError: lengths of a wrong type or shape, or out of range, or scale of a wrong shape.
    """
    frames = check_lengths('frames', lengths, len(codes), codes.shape[2])
    if scale is not None and (scale.dim() != 2 or len(scale) != len(codes)):
        raise ValueError(
            f'scale has shape {list(scale.shape)}: expected [{len(codes)}, N], as returned by '
            'encode'
        )
    wavs = []
    for places, part in _groups(codes, frames, alone):
        own = None if scale is None else scale[places, : num_scales(part.shape[2])]
        wavs.append(Group(places, run(part, own)))
    return _join(wavs, len(codes))


def check_lengths(name: str, lengths: Any, items: int, longest: int) -> list[int]:
    """Check the lengths of the items of a padded batch.

    Args:
        name: what they count, for messages: samples or frames.
        lengths: integers [B], a tensor, array or list.
        items: B.
        longest: samples or frames of the padded batch.

    Raises:
        ValueError: wrong type or shape, or out of range.
    """
    expected = f'expected [{items}] integers, the {name} of each item, from 1 to {longest}'
    if isinstance(lengths, torch.Tensor):
        lengths = lengths.detach().cpu().numpy()
    try:
        array = np.asarray(lengths)
    except ValueError:  # a list of lists of different lengths
        raise ValueError(f'lengths is {lengths!r}: {expected}') from None
    if array.shape != (items,):
        raise ValueError(f'lengths has shape {list(array.shape)}: {expected}')
    if array.dtype.kind not in 'iu':
        raise ValueError(f'lengths has type {array.dtype}: {expected}')
    values: list[int] = array.tolist()
    for place, value in enumerate(values):
        if not 1 <= value <= longest:
            raise ValueError(f'lengths[{place}] is {value}: {expected}')
    return values


def _groups(batch: Any, lengths: Sequence[int], alone: bool) -> Iterator[Group]:
    """Split a padded batch into what is computed at once.

    A batch rounds otherwise than its items do alone. On a CPU it is not faster, so that they run
    alone there.
    """
    if not alone:
        yield from by_length(batch, lengths)
        return
    for place, length in enumerate(lengths):
        yield Group([place], batch[[place], :, :length])


def _join(groups: Sequence[Group], items: int) -> torch.Tensor:
    """Return the results [n, ..., T] of all groups as [B, ..., T], with zeros after each item."""
    first = groups[0].wav
    longest = max(values.shape[-1] for _, values in groups)
    joined = first.new_zeros(items, *first.shape[1:-1], longest)
    for places, values in groups:
        joined[places, ..., : values.shape[-1]] = values
    return joined
