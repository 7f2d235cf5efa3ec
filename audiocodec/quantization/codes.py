"""Validation of codes and their conversion to int64."""

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
    """Check codes and convert them to int64.

    Reading their range synchronizes with the device.

    Args:
        codes: integers [B, K, T] of any type, signed or unsigned; B and T may be 0.
        codebooks: the maximum of K.
        cardinality: entries per codebook.
        device: device on which a tensor must be, and to which an array is moved.

    Returns:
        int64 [B, K, T] on the device.

    Raises:
        ValueError: neither a tensor nor an array, wrong shape, type or device, or out of range.
    """
    if codebooks == 0:
        raise ValueError('a continuous autoencoder: it has latents but no codes to decode')
    integers = _integers(codes)
    if integers.dim() != 3 or not 1 <= integers.shape[1] <= codebooks:
        raise ValueError(
            f'codes have shape {list(integers.shape)}: expected [B, K, T] (items, '
            f'codebooks, frames), with K from 1 to {codebooks}'
        )
    if isinstance(codes, np.ndarray):
        integers = integers.to(device)
    elif integers.device != device:
        raise ValueError(
            f'codes are on {integers.device} and the model on {device}: move one with .to(device)'
        )
    if integers.numel() == 0:
        return integers
    lowest, highest = torch.stack(torch.aminmax(integers)).tolist()
    # Values of uint64 from 2^63 on are negative as int64, so that they are refused here, too.
    if lowest < 0 or highest >= cardinality:
        given = codes if isinstance(codes, np.ndarray) else codes.cpu().numpy()
        raise ValueError(
            f'codes range from {given.min()} to {given.max()}: expected 0 to {cardinality - 1}'
        )
    return integers


def _integers(codes: Any) -> torch.Tensor:
    """Return integers of any type and shape as int64, on the same device."""
    if isinstance(codes, np.ndarray) and codes.dtype.kind in 'iu':
        # astype also swaps the bytes of big-endian arrays, which from_numpy refuses.
        return torch.from_numpy(codes.astype(np.int64))
    if isinstance(codes, torch.Tensor) and codes.dtype in _INTEGERS:
        return codes.long()
    if not isinstance(codes, torch.Tensor | np.ndarray):
        raise ValueError(
            f'codes are a {type(codes).__name__}: expected a tensor or numpy array of integers '
            '[B, K, T]; convert lists with torch.tensor(codes)'
        )
    raise ValueError(f'codes have type {codes.dtype}: expected integers, as returned by encode')
