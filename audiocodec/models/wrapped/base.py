"""Base class of codecs that are wrapped from `transformers`."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import nn

from audiocodec.models.base import CompressionModel
from audiocodec.models.formats import hub

Codec = TypeVar('Codec', bound='TransformersCodec')


class TransformersCodec(CompressionModel):
    """Codec of `transformers` with the interface of all compression models, without a scale.

    Args:
        model: an instance of the class of `transformers` named by `MODEL_CLASS`.
    """

    MODEL_CLASS: ClassVar[str]

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        self._num_codebooks = self.total_codebooks

    @classmethod
    def load(cls: type[Codec], folder: Path) -> Codec:
        """Load the model in a folder of `transformers`.

        Raises:
            ValueError: transformers is missing, or the folder has no such model.
        """
        return cls(hub.build_with_transformers(cls.MODEL_CLASS, folder))

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveforms (Hz)."""
        return int(self.model.config.sampling_rate)

    @property
    def cardinality(self) -> int:
        """Entries of each codebook."""
        return int(self.model.config.codebook_size)

    @property
    def num_codebooks(self) -> int:
        """Number of codebooks in use."""
        return self._num_codebooks

    def set_num_codebooks(self, n: int) -> None:
        """Use the first `n` codebooks, one of `possible_num_codebooks`."""
        possible: Sequence[int] = self.possible_num_codebooks
        if n not in possible:
            raise ValueError(
                f'cannot use {n} codebooks: this model can use {possible[0]} to {possible[-1]}'
            )
        self._num_codebooks = n

    def _decode_batch(
        self, codes: torch.Tensor | np.ndarray, scale: torch.Tensor | np.ndarray | None
    ) -> torch.Tensor:
        """Return the waveform [B, C, T_frames * hop_length] of codes; see `CompressionModel`."""
        if scale is not None:
            raise ValueError('this model does not renormalize, but got a scale: use decode(codes)')
        return self._decode_codes(self.check_codes(codes))

    @abstractmethod
    def _decode_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """Decode codes that have been checked."""
