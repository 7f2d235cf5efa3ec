"""Checks codes, tensors or numpy arrays of any integer type, and makes them int64."""

from typing import Any

import numpy as np
import torch

_INTEGERS = (
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)


def check_codes(
    codes: torch.Tensor | np.ndarray, codebooks: int, cardinality: int, device: torch.device
) -> torch.Tensor:
    """Checks codes and converts them. Reads their range: waits for the device.

    Args:
        codes: integers [B, K, T] of any type, signed or not; B and T may be 0.
        codebooks: the most there may be.
        cardinality: entries of each codebook.
        device: where a tensor must be, and an array is moved to.

    Returns:
        int64 [B, K, T] on the device.

    Raises:
        ValueError: neither a tensor nor an array, wrong shape, type or device, or out of range.
    """
    if codebooks == 0:
        raise ValueError('codes were given to a continuous autoencoder (NoQuantizer): it has none.')
    integers = _integers(codes)
    if integers.dim() != 3 or not 1 <= integers.shape[1] <= codebooks:
        raise ValueError(
            f'codes have shape {list(integers.shape)}: expected [B, K, T] (items, '
            f'codebooks, frames), with K from 1 to {codebooks}.'
        )
    if isinstance(codes, np.ndarray):
        integers = integers.to(device)
    elif integers.device != device:
        raise ValueError(
            f'codes are on {integers.device} and the model on {device}: move one with .to(device).'
        )
    if integers.numel() == 0:
        return integers
    lowest, highest = torch.stack(torch.aminmax(integers)).tolist()
    if lowest < 0 or highest >= cardinality:  # from 2^63 on, uint64 has become negative
        given = codes if isinstance(codes, np.ndarray) else codes.cpu().numpy()
        raise ValueError(
            f'codes go from {given.min()} to {given.max()}: expected 0 to {cardinality - 1}.'
        )
    return integers


def _integers(codes: Any) -> torch.Tensor:
    """Returns integers of any type and shape as int64, on their device."""
    if isinstance(codes, np.ndarray) and codes.dtype.kind in 'iu':
        return torch.from_numpy(codes.astype(np.int64))  # whatever the order of bytes
    if isinstance(codes, torch.Tensor) and codes.dtype in _INTEGERS:
        return codes.long()
    if not isinstance(codes, torch.Tensor | np.ndarray):
        raise ValueError(
            f'codes are a {type(codes).__name__}: expected integers [B, K, T] in a '
            f'tensor or a numpy array; use torch.tensor(codes) for lists.'
        )
    raise ValueError(f'codes have type {codes.dtype}: expected integers, as given by encode.')
