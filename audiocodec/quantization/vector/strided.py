"""Residual quantizer with several frame rates, of SNAC (arXiv 2410.14411)."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.modules.checks import require_int, require_ints
from audiocodec.quantization.discrete import DiscreteQuantizer, Quantized
from audiocodec.quantization.vector.factorized import (
    FactorizedCodebook,
    Found,
    first_levels,
    traced_sum,
)


class StridedResidualQuantizer(DiscreteQuantizer):
    """Residual quantizer whose codebooks have different frame rates.

    See SNAC, arXiv 2410.14411, section 2.1. Level i averages the residual over groups of
    `strides[i]` frames, quantizes the averages, and repeats each result for the frames of its
    group. A level is that of DAC (arXiv 2306.06546, section 3.2): a projection to `codebook_dim`
    channels, the entry with the smallest angle, and a projection back. Entries are learned by the
    gradient of the loss `codebook`.

    Codes have the shape [B, K, T] of every other quantizer: those of a coarse level are repeated
    within their group. `decode` reads the first frame of each group. `to_ragged` and `from_ragged`
    convert to and from one tensor [B, T_i] per level, with T_i = ceil(T / strides[i]), the form in
    which the `snac` package and language models on its codes store them. Cut codes only between
    groups, at multiples of the largest stride.

    If T is not a multiple of a stride, the last group is shorter: its code is that of the average
    over the frames there are. (The `snac` package pads the waveform so that this does not happen;
    see `frame_multiple` of `SNACEncoder`.)

    The losses are sums over the codebooks used, as in DAC. In training, the metrics are of the
    batches of all workers. All computations are in float32, also under autocast.

    Args:
        dimension: channels D of the latents.
        strides: frames per code, for each codebook, such as [4, 2, 1].
        bins: entries per codebook.
        codebook_dim: channels of an entry.

    Raises:
        ValueError: arguments out of range.
    """

    loss_terms = ('commitment', 'codebook')
    unused_codes_advice = (
        'Try a higher losses.codebook.weight, which moves the entries faster, or more audio per '
        'update (dataset.batch_size, dataset.segment_duration). If nothing helps, the latents need '
        'no more codes: reduce {section}.bins'
    )

    def __init__(
        self,
        dimension: int = 768,
        strides: Sequence[int] = (4, 2, 1),
        bins: int = 4096,
        codebook_dim: int = 8,
    ) -> None:
        require_int('bins', bins)
        require_int('codebook_dim', codebook_dim)
        checked = require_ints('strides', strides)
        super().__init__(dimension, len(checked), bins)
        self._strides = checked
        self._entry_dimension = codebook_dim
        self.levels = nn.ModuleList(
            FactorizedCodebook(dimension, bins, codebook_dim) for _ in checked
        )

    def reads(self, first: float, last: float) -> tuple[float, float]:
        """Return the frames of the groups that the frames may belong to; see `BaseQuantizer`."""
        reach = max(self.strides[: self.num_codebooks]) - 1
        return first - reach, last + reach

    @property
    def frame_group(self) -> int:
        """Least common multiple of the strides in use."""
        return math.lcm(*self.strides[: self.num_codebooks])

    @property
    def entry_dimension(self) -> int | None:
        """Channels of an entry."""
        return self._entry_dimension

    @property
    def strides(self) -> tuple[int, ...]:
        """Frames per code, for each codebook."""
        return self._strides

    def bandwidth(self, frame_rate: float, num_codebooks: int | None = None) -> float:
        """Return the bit rate of the codes in kbps, each code of a group counted once."""
        used = self.num_codebooks if num_codebooks is None else num_codebooks
        codes = sum(frame_rate / stride for stride in self._strides[:used])
        return codes * math.log2(self.cardinality) / 1000

    def _quantize(self, latents: torch.Tensor, levels: int) -> Quantized:
        residual = latents
        total = torch.zeros_like(latents)
        found: list[Found] = []
        for stride, level in self._active(levels):
            found.append(level(_average(residual, stride)))
            quantized = _repeat(found[-1].quantized, stride, latents.shape[-1])
            residual = residual - quantized
            total = total + quantized
        losses = {
            'commitment': torch.stack([one.commitment.mean() for one in found]).sum(),
            'codebook': torch.stack([one.codebook.mean() for one in found]).sum(),
        }
        return Quantized(
            total, self.from_ragged([one.codes for one in found], latents.shape[-1]), losses
        )

    def _encode(self, latents: torch.Tensor, levels: int) -> torch.Tensor:
        residual = latents
        codes: list[torch.Tensor] = []
        for stride, level in self._active(levels):
            codes.append(level.encode(_average(residual, stride)))
            quantized = level.decode(codes[-1], latents.dtype)
            residual = residual - _repeat(quantized, stride, latents.shape[-1])
        return self.from_ragged(codes, latents.shape[-1])

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(self._dtype(), torch.float32)
        frames = codes.shape[-1]
        total = torch.zeros(len(codes), self.dimension, frames, dtype=dtype, device=codes.device)
        if codes.numel():
            ragged = self.to_ragged(codes)
            for part, (stride, level) in zip(ragged, self._active(len(ragged))):
                total = total + _repeat(level.decode(part, dtype), stride, frames)
        return total

    def traced_encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Do the same as `encode`; see `BaseQuantizer`."""
        residual, codes = latents, []
        positions = torch.arange(latents.shape[-1], device=latents.device)
        for stride, level in self._active(self.num_codebooks):
            # All at the rate of the frames: a program may not depend on the number of groups.
            first = positions // stride * stride
            sizes = (latents.shape[-1] - first).clamp(max=stride)
            sums = F.avg_pool1d(F.pad(residual, (0, stride - 1)), stride, 1) * stride
            codes.append(level.traced_encode(sums[:, :, first] / sizes)[:, first])
            residual = residual - level.decode(codes[-1])
        return torch.stack(codes, dim=1)

    def traced_decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Do the same as `decode`; see `BaseQuantizer`."""
        levels = [level for _, level in self._active(self.total_codebooks)]
        batch, number, frames = codes.shape
        strides = torch.tensor(self._strides, device=codes.device)[:number, None]
        first = torch.arange(frames, device=codes.device) // strides * strides
        return traced_sum(levels, codes.gather(2, first.expand(batch, -1, -1)))

    def to_ragged(self, codes: torch.Tensor) -> list[torch.Tensor]:
        """Return the codes of each level without repetitions.

        Maps [B, K, T], of the first K codebooks, to K tensors [B, ceil(T / stride)].
        """
        if codes.dim() != 3 or codes.shape[1] > self.total_codebooks:
            raise ValueError(
                f'codes have shape {list(codes.shape)}: expected [B, K, T] (items, codebooks, '
                f'frames), with K up to {self.total_codebooks}'
            )
        return [codes[:, k, ::stride] for k, stride in zip(range(codes.shape[1]), self._strides)]

    def from_ragged(
        self, ragged: Sequence[torch.Tensor], frames: int | None = None
    ) -> torch.Tensor:
        """Return codes [B, K, T] of one tensor per level; inverse of `to_ragged`.

        Args:
            ragged: K tensors [B, T_i], of the first K codebooks.
            frames: number of frames T; None: as many as the shortest level covers, whole groups
                if all levels end together.

        Raises:
            ValueError: too many levels, or lengths that belong to no number of frames.
        """
        lengths = [part.shape[-1] for part in ragged]
        if not 1 <= len(lengths) <= self.total_codebooks:
            raise ValueError(
                f'{len(lengths)} levels of codes: expected 1 to {self.total_codebooks}'
            )
        if frames is None:
            frames = min(length * stride for length, stride in zip(lengths, self._strides))
        expected = [-(-frames // stride) for stride in self._strides[: len(lengths)]]
        if lengths != expected:
            raise ValueError(
                f'levels with {lengths} codes: expected {expected} for {frames} frames with the '
                f'strides {list(self._strides[: len(lengths)])}'
            )
        repeated = [_repeat(part, stride, frames) for part, stride in zip(ragged, self._strides)]
        return torch.stack(repeated, dim=1)

    def _active(self, levels: int) -> list[tuple[int, FactorizedCodebook]]:
        """Return stride and level of the first `levels` codebooks."""
        return list(zip(self._strides[:levels], first_levels(self.levels, levels)))


def _average(latents: torch.Tensor, stride: int) -> torch.Tensor:
    """Average groups of frames: [B, D, T] to [B, D, ceil(T / stride)]; the last may be shorter."""
    if stride == 1:
        return latents
    return F.avg_pool1d(latents, stride, stride, ceil_mode=True, count_include_pad=False)


def _repeat(values: torch.Tensor, stride: int, frames: int) -> torch.Tensor:
    """Repeat for the frames of a group: [..., ceil(T / stride)] to [..., T]."""
    if stride == 1:
        return values
    return values.repeat_interleave(stride, dim=-1)[..., :frames]
