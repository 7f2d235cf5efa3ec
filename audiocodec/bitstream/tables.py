"""Frequencies of codes in their context, as integers, for entropy coding.

The context of a code of level k are those of level k in the two frames before, and those of the
eight levels above it in the same frame. Each of them adds a vector of small integers. A code is the
more frequent, the larger the product of its own vector with their sum: a log-bilinear model (Mnih
and Hinton 2007), with factors that are integers. docs/bitstream.md has the formula.

A context ends with its packet, so that a lost packet damages no other.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from audiocodec.bitstream import coder
from audiocodec.utils import files

FORMAT = 'audiocodec.tables'
VERSION = 1
MAX_CARDINALITY = 2**14
PAST = 2  # frames before
ABOVE = 8  # levels, those that exist
OCTAVE = 64  # steps of the logarithm of a frequency that double it
SHIFT = 6  # bits of a product below a step
_HIGHEST = 20  # log2 of the highest frequency
_CHUNK = 128  # frames that the encoder computes at once


def _frequencies() -> np.ndarray:
    """Return floor(2^(20 - i / 64)) for i = 0 to 1280, in integers: six square roots of 2^..."""
    powers = [1 << (_HIGHEST * OCTAVE - step) for step in range(_HIGHEST * OCTAVE + 1)]
    for _ in range(OCTAVE.bit_length() - 1):
        powers = [isqrt(power) for power in powers]
    return np.array(powers, np.int64)


FREQUENCIES = _frequencies()


class Level(NamedTuple):
    """Factors of a level k, with A = min(k, ABOVE) levels above it.

    Attributes:
        codes: int8 [cardinality, D], a vector for every code.
        bias: int32 [cardinality], added to the products.
        contexts: int8 [PAST + A, cardinality + 1, D], a vector for every value of: the code one
            frame before, that two frames before, and those of levels k - A to k - 1. The last value
            is for frames before the packet.
    """

    codes: np.ndarray
    bias: np.ndarray
    contexts: np.ndarray


class Tables:
    """Entropy coder of the codes of a model.

    Args:
        levels: one for each codebook.
        model_hash: `hash_of` the model.

    Attributes:
        cardinality: entries of each codebook.
        hash: identifies the tables in the header of a stream; eight bytes.

    Raises:
        ValueError: the shapes do not fit together.
    """

    def __init__(self, levels: Sequence[Level], model_hash: bytes) -> None:
        self.levels = list(levels)
        self.model_hash = model_hash
        self.cardinality, dimension = self.levels[0].codes.shape
        if not 1 <= self.cardinality <= MAX_CARDINALITY:
            raise ValueError(f'{self.cardinality} entries: expected 1 to {MAX_CARDINALITY}')
        for index, level in enumerate(self.levels):
            codes, bias, contexts = level
            types = [str(part.dtype) for part in level]
            if types != ['int8', 'int32', 'int8']:
                raise ValueError(f'level {index} has types {types}')
            shape = (PAST + min(index, ABOVE), self.cardinality + 1, dimension)
            if (
                contexts.shape != shape
                or codes.shape != (self.cardinality, dimension)
                or len(bias) != self.cardinality
            ):
                raise ValueError(f'the shapes of level {index} do not fit together')
        digest = hashlib.sha256()
        for level in self.levels:
            for part in level:
                digest.update(part.astype('<i4').tobytes())
        self.hash = digest.digest()[:8]

    def check(self, num_codebooks: int, cardinality: int) -> None:
        """Raise a ValueError if they are not for codes of these sizes."""
        if num_codebooks > len(self.levels) or cardinality != self.cardinality:
            raise ValueError(
                f'tables for {len(self.levels)} codebooks of {self.cardinality} entries cannot '
                f'code {num_codebooks} of {cardinality}: fit them with all codebooks'
            )

    @staticmethod
    def load(path: str | os.PathLike[str]) -> 'Tables':
        """Read the file of `save`.

        Raises:
            ValueError: no such file, another format, or damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f'{path}: no such file; `audiocodec tables` writes it')
        try:
            with safe_open(path, 'numpy') as file:
                metadata = file.metadata() or {}
                parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata.get('format') != FORMAT or metadata.get('version') != str(VERSION):
                raise ValueError(
                    f'format {metadata.get("format")!r}, version {metadata.get("version")}: '
                    f'expected {FORMAT}, version {VERSION}'
                )
            levels = [
                Level(*(parts[f'{index}.{name}'] for name in Level._fields))
                for index in range(len(parts) // len(Level._fields))
            ]
            return Tables(levels, bytes.fromhex(metadata['model']))
        except (SafetensorError, ValueError, KeyError, IndexError) as error:
            raise ValueError(f'{path} cannot be read as tables: {error}') from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file."""
        parts = {
            f'{index}.{name}': np.ascontiguousarray(part)
            for index, level in enumerate(self.levels)
            for name, part in level._asdict().items()
        }
        metadata = {'format': FORMAT, 'version': str(VERSION), 'model': self.model_hash.hex()}
        files.write_bytes(Path(path), to_bytes(parts, metadata))

    def encode(self, codes: np.ndarray) -> bytes:
        """Return a message for the codes [K, n] of a packet, K at most the number of levels."""
        intervals = [self._intervals(codes, level) for level in range(len(codes))]
        flat = np.stack(intervals, axis=2).reshape(3, -1)  # frame by frame
        return coder.encode(zip(*flat.tolist()))

    def decode(self, message: bytes, num_codebooks: int, frames: int) -> np.ndarray:
        """Return the codes of a packet, int64 [num_codebooks, frames]; any message decodes."""
        decoder = coder.Decoder(message)
        codes = np.full((num_codebooks, PAST + frames), self.cardinality, np.int64)
        levels = np.arange(num_codebooks)
        one, two = (past[:num_codebooks] for past in self._past)
        for frame in range(PAST, PAST + frames):
            sums = one[levels, codes[:, frame - 1]] + two[levels, codes[:, frame - 2]]
            for level in range(num_codebooks):
                counts = _counts(self._codes[level] @ sums[level])
                ends = counts.cumsum()
                total = int(ends[-1])
                code = int(ends.searchsorted(decoder.target(total), 'right'))
                count = int(counts[code])
                decoder.use(int(ends[code]) - count, count)
                codes[level, frame] = code
                below = sums[level + 1 : level + 1 + ABOVE]
                below += self._below[level][code, : len(below)]
        return codes[:, PAST:]

    def bits(self, codes: np.ndarray) -> np.ndarray:
        """Return the bits that an ideal coder needs for each level of a packet, [K]."""
        found = []
        for level in range(len(codes)):
            _, count, total = self._intervals(codes, level)
            found.append(np.log2(total / count).sum())
        return np.array(found)

    def _intervals(self, codes: np.ndarray, level: int) -> np.ndarray:
        """Return the first slot, the count and the total of a level's codes, int64 [3, n]."""
        frames = codes.shape[1]
        padded = np.concatenate((np.full(PAST, self.cardinality), codes[level]))
        one, two = self._past
        sums = one[level, padded[1 : 1 + frames]] + two[level, padded[:frames]]
        for above in range(max(0, level - ABOVE), level):
            sums += self._below[above][codes[above], level - above - 1]
        parts = []
        for begin in range(0, frames, _CHUNK):
            counts = _counts(sums[begin : begin + _CHUNK] @ self._codes[level].T)
            ends = counts.cumsum(axis=1)
            chosen = codes[level, begin : begin + _CHUNK, None]
            count = np.take_along_axis(counts, chosen, 1)
            first = np.take_along_axis(ends, chosen, 1) - count
            parts.append(np.concatenate((first, count, ends[:, -1:]), axis=1))
        return np.concatenate(parts).T

    # The factors in float64: sums and products of integers below 2^53 are exact in any order, so
    # that every machine and BLAS finds the same, at ten times the speed of NumPy's integers.

    @cached_property
    def _codes(self) -> list[np.ndarray]:
        """Vectors of codes [cardinality, D + 1] of each level, over 2^SHIFT, which is exact, too.

        The last column is the bias, which is multiplied by 1.
        """
        return [
            np.concatenate((level.codes, level.bias[:, None]), axis=1).astype(np.float64) / 2**SHIFT
            for level in self.levels
        ]

    @cached_property
    def _past(self) -> list[np.ndarray]:
        """What the codes one and two frames before add to the sums, [K, cardinality + 1, D + 1]."""
        rows = [np.stack([one.contexts[index] for one in self.levels]) for index in range(PAST)]
        return [
            np.pad(row.astype(np.float64), ((0, 0), (0, 0), (0, 1)), constant_values=index == 0)
            for index, row in enumerate(rows)
        ]

    @cached_property
    def _below(self) -> list[np.ndarray]:
        """What codes of a level add to the levels below, [cardinality + 1, levels, D + 1]."""
        found = []
        shape = (self.cardinality + 1, self.levels[0].codes.shape[1])
        for above in range(len(self.levels)):
            below = self.levels[above + 1 : above + 1 + ABOVE]
            rows = [one.contexts[above - level] for level, one in enumerate(below, above + 1)]
            stacked = np.stack([*rows, np.zeros(shape)], axis=1)[:, :-1]
            found.append(np.pad(stacked, ((0, 0), (0, 0), (0, 1))))
        return found


def _counts(products: np.ndarray) -> np.ndarray:
    """Return the frequencies of the codes, given products / 2^SHIFT [..., cardinality]."""
    steps = products.max(axis=-1, keepdims=True) - products
    # converted to integers, they are rounded down; 'clip' bounds them by the last frequency
    return FREQUENCIES.take(steps.astype(np.int64), mode='clip')
