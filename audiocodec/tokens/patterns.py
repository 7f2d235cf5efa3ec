"""Arrangements of codes for language models: delayed and flattened (Copet et al., 2306.05284)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def delay(codes: torch.Tensor, delays: Sequence[int] | None = None, fill: int = 0) -> torch.Tensor:
    """Shift each codebook by a number of frames: the delay pattern of MusicGen.

    So a model that predicts all codebooks of a step at once sees, for each, the coarser ones of the
    same frame, which came in earlier steps. The code of codebook k at frame t is at step
    t + delays[k].

    Args:
        codes: [..., K, T_frames].
        delays: frames for each codebook, from 0 up; None: 0, 1, ..., K - 1.
        fill: code where there is none, e.g. the model's cardinality.

    Returns:
        [..., K, T_frames + max(delays)].

    Raises:
        ValueError: not one delay per codebook, or a negative one.
    """
    delays = _checked(delays, codes)
    longest = max(delays)
    rows = [
        F.pad(row, (shift, longest - shift), value=fill)
        for row, shift in zip(codes.unbind(-2), delays)
    ]
    return torch.stack(rows, -2)


def undelay(codes: torch.Tensor, delays: Sequence[int] | None = None) -> torch.Tensor:
    """Invert `delay`, for steps that a model has generated, too.

    Args:
        codes: [..., K, S], S steps.
        delays: see `delay`.

    Returns:
        [..., K, S - max(delays)].

    Raises:
        ValueError: as in `delay`, or too few steps for a frame.
    """
    delays = _checked(delays, codes)
    frames = codes.shape[-1] - max(delays)
    if frames < 1:
        raise ValueError(
            f'{codes.shape[-1]} steps have no frame with a delay of {max(delays)}: expected at '
            f'least {max(delays) + 1}'
        )
    rows = [row[..., shift : shift + frames] for row, shift in zip(codes.unbind(-2), delays)]
    return torch.stack(rows, -2)


def flatten(codes: torch.Tensor, cardinality: int | None = None) -> torch.Tensor:
    """Write the codes of all codebooks in one row, frame by frame, coarse to fine.

    Args:
        codes: [..., K, T_frames].
        cardinality: entries of each codebook; tokens of codebook k become code + k * cardinality,
            so that one vocabulary has those of all codebooks (AudioLM, Borsos et al., 2209.03143).
            None: tokens are the codes.

    Returns:
        [..., T_frames * K].
    """
    return (codes + _offsets(codes, cardinality)).mT.flatten(-2)


def unflatten(
    tokens: torch.Tensor, num_codebooks: int, cardinality: int | None = None
) -> torch.Tensor:
    """Invert `flatten`.

    Args:
        tokens: [..., T_frames * K].
        num_codebooks: K.
        cardinality: see `flatten`.

    Returns:
        [..., K, T_frames].

    Raises:
        ValueError: the last frame is not complete, or, with a cardinality, a token is not of the
            codebook whose turn it is.
    """
    if num_codebooks < 1 or tokens.shape[-1] % num_codebooks:
        raise ValueError(
            f'{tokens.shape[-1]} tokens are not whole frames of {num_codebooks} codebooks: cut '
            'them to a multiple'
        )
    shifted = tokens.unflatten(-1, (-1, num_codebooks)).mT
    codes = shifted - _offsets(shifted, cardinality)
    if cardinality is not None and not ((codes >= 0) & (codes < cardinality)).all():
        raise ValueError(
            f'tokens are not of {num_codebooks} codebooks of {cardinality} entries in turn: after '
            f'the offsets, they range from {int(codes.min())} to {int(codes.max())}'
        )
    return codes


def _offsets(codes: torch.Tensor, cardinality: int | None) -> torch.Tensor:
    """Return what is added to the codes [..., K, T_frames] of each codebook, [K, 1]."""
    levels = torch.arange(codes.shape[-2], device=codes.device, dtype=codes.dtype)
    return (levels * (cardinality or 0))[:, None]


def _checked(delays: Sequence[int] | None, codes: torch.Tensor) -> list[int]:
    """Return the delays of the codebooks of [..., K, T]."""
    number = codes.shape[-2]
    found = list(range(number)) if delays is None else list(delays)
    if len(found) != number or min(found) < 0:
        raise ValueError(f'delays={found}: expected {number} numbers from 0 up, one per codebook')
    return found
