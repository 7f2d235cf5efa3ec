"""Interface of all quantizers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import chain
from typing import ClassVar, NamedTuple

import torch
from torch import nn


class QuantizedResult(NamedTuple):
    """Quantized batch of latents.

    Attributes:
        latents: float [B, D, T], quantized; passes the gradient on to the encoder.
        codes: int64 [B, K, T], with K the number of codebooks used for this batch.
        bandwidth: 0-d, of the codes, in kbps.
        losses: 0-d tensors by name, those of `loss_terms`. Each is trained with the weight
            `losses.NAME.weight` of the recipe, and reaches the model beside the balancer.
        metrics: tensors on the device: scalars (0-d), or one value per codebook [K].
        features: further tensors with a gradient, by name, for losses of the codec such as a
            distillation; for example the latents of a single codebook.
    """

    latents: torch.Tensor
    codes: torch.Tensor
    bandwidth: torch.Tensor
    losses: Mapping[str, torch.Tensor]
    metrics: Mapping[str, torch.Tensor]
    features: Mapping[str, torch.Tensor] = {}


class BaseQuantizer(nn.Module, ABC):
    """Converts latents [B, D, T] into codes [B, K, T] and back.

    Args:
        dimension: number of channels D of the latents.

    Attributes:
        loss_terms: names of the losses that `forward` returns.
        initialization_options: constructor arguments without effect on a trained model.
        training_options: constructor arguments that affect only its training, so that fine-tuning
            may change them.
        adaptable_options: constructor arguments that fine-tuning may change, too, since
            `adapted_state` adapts the state.
        unused_codes_advice: what to try if few entries of the codebooks are used; {section} stands
            for the section of the configuration that sets the arguments.

    Raises:
        ValueError: `dimension` is below 1.
    """

    loss_terms: tuple[str, ...] = ()
    initialization_options: ClassVar[frozenset[str]] = frozenset()
    training_options: ClassVar[frozenset[str]] = frozenset()
    adaptable_options: ClassVar[frozenset[str]] = frozenset()
    unused_codes_advice: ClassVar[str] = ''

    def __init__(self, dimension: int) -> None:
        super().__init__()
        if dimension < 1:
            raise ValueError(
                f'dimension={dimension}: a quantizer needs latents with at least 1 channel'
            )
        self._dimension = dimension

    @abstractmethod
    def forward(self, latents: torch.Tensor, frame_rate: float) -> QuantizedResult:
        """Quantize a batch; in training mode, also update the codebooks.

        Args:
            latents: float [B, D, T].
            frame_rate: frames per second (Hz), for the bandwidth.
        """

    @abstractmethod
    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the codes, int64 [B, num_codebooks, T], of latents [B, D, T]."""

    @abstractmethod
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the latents [B, D, T] of codes [B, K, T], with 1 <= K <= total_codebooks."""

    def encode_latent(self, latents: torch.Tensor) -> torch.Tensor:
        """Return what a model's `encode_latent` gives for the encoder's latents [B, D, T].

        The latents themselves, but for continuous autoencoders with a bottleneck.
        """
        return latents

    def traced_encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Do the same as `encode`, in operations that can be traced for any batch and length.

        Values are not checked.

        Raises:
            NotImplementedError: this quantizer has no such form; exports of programs refuse it.
        """
        raise NotImplementedError

    def traced_decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Do the same as `decode`, for any batch, length and number of codebooks; see above."""
        raise NotImplementedError

    @property
    def is_traceable(self) -> bool:
        """True if `traced_encode` and `traced_decode` are implemented."""
        return all(
            getattr(type(self), name) is not getattr(BaseQuantizer, name)
            for name in ('traced_encode', 'traced_decode')
        )

    def reads(self, first: float, last: float) -> tuple[float, float]:
        """Return the frames of the input that the output frames `first` to `last` depend on.

        At most, for any position of these frames; by default themselves.
        """
        return first, last

    @property
    def frame_group(self) -> int:
        """Frames that are quantized together: a signal may be cut only at their multiples."""
        return 1

    @property
    def entry_dimension(self) -> int | None:
        """Channels of a codebook's entries; None without tables of entries."""
        return None

    def rounding_ties(
        self, latents: torch.Tensor, codes: torch.Tensor, found: torch.Tensor
    ) -> float | None:
        """Compare different codes of the same latents, which rounding may explain.

        Args:
            latents: float [B, D, T].
            codes: int64 [B, K, T].
            found: int64 [B, K, T], different in at least one place.

        Returns:
            How much nearer one of two different codes is, relative to possible rounding errors of
            the latents: up to 1, these explain the difference. None if this is not known.
        """
        return None

    def decode_latent(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the decoder's input [B, D, T] of the latents that `synthesize` takes.

        The latents themselves, but for continuous autoencoders with a bottleneck.
        """
        self._check_latents(latents)
        return latents

    @property
    def dimension(self) -> int:
        """Channels of the latents."""
        return self._dimension

    @property
    @abstractmethod
    def cardinality(self) -> int:
        """Number of entries per codebook."""

    @property
    @abstractmethod
    def total_codebooks(self) -> int:
        """Total number of codebooks."""

    @property
    @abstractmethod
    def num_codebooks(self) -> int:
        """Number of codebooks in use."""

    @abstractmethod
    def set_num_codebooks(self, n: int) -> None:
        """Use the first `n` codebooks, one of `possible_num_codebooks`."""

    @property
    def possible_num_codebooks(self) -> range:
        """Numbers of codebooks that `set_num_codebooks` accepts, ascending; empty without any."""
        return range(1, self.total_codebooks + 1)

    def adapted_state(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the state of another quantizer of this class, adapted to this one.

        What does not fit keeps the value that it has here.

        Args:
            state: state dict of a quantizer whose `adaptable_options` may differ.
        """
        return fitting_state(self, state)

    def settle_statistics(self) -> None:
        """Adapt training statistics, in place, to weights loaded from elsewhere.

        Does nothing by default.
        """

    def drop_statistics(self) -> None:
        """Free the statistics that only training needs, in place. Does nothing by default."""

    def bandwidth(self, frame_rate: float, num_codebooks: int | None = None) -> float:
        """Return the bit rate of the codes in kbps, without entropy coding.

        Args:
            frame_rate: frames per second (Hz).
            num_codebooks: use the first so many codebooks; None: those in use.
        """
        used = self.num_codebooks if num_codebooks is None else num_codebooks
        return used * math.log2(self.cardinality) * frame_rate / 1000 if used else 0.0

    def _check_latents(self, latents: torch.Tensor) -> None:
        if latents.dim() != 3 or latents.shape[1] != self.dimension:
            raise ValueError(
                f'latents of shape {tuple(latents.shape)}: expected [batch, {self.dimension}, '
                f'frames] for a quantizer with dimension={self.dimension}'
            )
        if not latents.is_floating_point():
            raise ValueError(
                f'latents of type {latents.dtype}: expected floating point; pass codes to decode()'
            )

    def _check_batch(self, latents: torch.Tensor) -> None:
        """Check the latents of `forward`, of which there must be some."""
        self._check_latents(latents)
        if latents.numel() == 0:
            raise ValueError(
                f'latents of shape {tuple(latents.shape)}: at least one item and one frame are '
                'needed'
            )

    def _dtype(self) -> torch.dtype:
        """Return the type of the quantizer's weights, float32 without any."""
        floats = (
            one for one in chain(self.parameters(), self.buffers()) if one.is_floating_point()
        )
        return next((one.dtype for one in floats), torch.float32)

    def _device(self) -> torch.device:
        """Return the device of the quantizer's weights, the CPU without any."""
        tensors = chain(self.parameters(), self.buffers())
        return next((one.device for one in tensors), torch.device('cpu'))


def fitting_state(module: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a module's own state dict, with the values of `state` of the same name and shape."""
    own = module.state_dict()
    return {
        name: state[name] if name in state and state[name].shape == value.shape else value
        for name, value in own.items()
    }
