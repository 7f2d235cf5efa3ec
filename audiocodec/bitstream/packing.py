"""Codes of a fixed width, without entropy coding."""

import numpy as np


def pack(codes: np.ndarray, bits: int) -> bytes:
    """Write codes [K, n] with a fixed number of bits each, frame by frame, first bit highest."""
    shifts = np.arange(bits - 1, -1, -1)
    flat = codes.T.reshape(-1, 1).astype(np.int64)
    return np.packbits((flat >> shifts & 1).astype(np.uint8)).tobytes()


def unpack(data: bytes, bits: int, num_codebooks: int, frames: int) -> np.ndarray:
    """Read codes, int64 [K, n]; `data` has at least as many bytes as `pack` returns."""
    flags = np.unpackbits(np.frombuffer(data, np.uint8), count=num_codebooks * frames * bits)
    weights = np.left_shift(1, np.arange(bits - 1, -1, -1), dtype=np.int64)
    codes: np.ndarray = (flags.reshape(-1, bits) @ weights).reshape(frames, num_codebooks).T
    return codes
