"""Residual quantizer with several frame rates, of SNAC (arXiv 2410.14411)."""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.modules.checks import require_int, require_ints
from audiocodec.modules.norm import normalize_weight
from audiocodec.quantization.base import BaseQuantizer, QuantizedResult
from audiocodec.quantization.codes import check_codes
from audiocodec.quantization.kmeans import nearest
from audiocodec.utils import distrib

# Decay of the moving average of the usage: a window of about ten updates.
_USAGE_DECAY = 0.9
# An entry that took less than this fraction of the average number of vectors counts as unused.
_UNUSED_FRACTION = 0.1


class _Found(NamedTuple):
    """Latents quantized by one level."""

    quantized: torch.Tensor  # [B, D, T], with the gradient of the projected latents
    codes: torch.Tensor  # int64 [B, T]
    commitment: torch.Tensor  # 0-d, mean square distance of projected latents from fixed entries
    codebook: torch.Tensor  # 0-d, the same distance, of the entries from fixed latents


class _Level(nn.Module):
    """One codebook with few channels, searched by the angle (ViT-VQGAN, arXiv 2110.04627)."""

    def __init__(self, dimension: int, bins: int, codebook_dim: int) -> None:
        super().__init__()
        self.in_proj = normalize_weight(nn.Conv1d(dimension, codebook_dim, 1), 'weight_norm')
        self.out_proj = normalize_weight(nn.Conv1d(codebook_dim, dimension, 1), 'weight_norm')
        self.codebook = nn.Embedding(bins, codebook_dim)

    def forward(self, latents: torch.Tensor) -> _Found:
        """Quantize latents [B, D, T]."""
        projected = self.in_proj(latents)
        codes = self._search(projected)
        entries = self.codebook(codes).transpose(1, 2)
        # Zeros that carry the gradient: adding them leaves the values exactly those of decode.
        carrier = projected - projected.detach()
        return _Found(
            self.out_proj(entries.detach() + carrier),
            codes,
            F.mse_loss(projected, entries.detach()),
            F.mse_loss(entries, projected.detach()),
        )

    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the codes [B, T] of latents [B, D, T]."""
        return self._search(self.in_proj(latents))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the latents [B, D, T] of codes [B, T]."""
        return self.out_proj(self.codebook(codes).transpose(1, 2))

    def traced_encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Do the same as `encode`; a convolution can be traced for any batch and length."""
        book = F.normalize(self.codebook.weight)
        vectors = F.normalize(self.in_proj(latents), dim=1)
        return F.conv1d(vectors, -2 * book[:, :, None], book.square().sum(-1)).argmin(1)

    @torch.no_grad()
    def _search(self, projected: torch.Tensor) -> torch.Tensor:
        """Return the codes [B, T] of projected latents [B, codebook_dim, T]."""
        vectors = F.normalize(projected.transpose(1, 2).flatten(0, 1))
        codes = nearest(vectors, F.normalize(self.codebook.weight))
        return codes.view(len(projected), -1)


class StridedResidualQuantizer(BaseQuantizer):
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

    usage: torch.Tensor | None

    def __init__(
        self,
        dimension: int = 768,
        strides: Sequence[int] = (4, 2, 1),
        bins: int = 4096,
        codebook_dim: int = 8,
    ) -> None:
        super().__init__(dimension)
        self._entry_dimension = codebook_dim
        require_int('bins', bins)
        require_int('codebook_dim', codebook_dim)
        self._strides = require_ints('strides', strides)
        self._bins = bins
        self._num_codebooks = len(self._strides)
        self.levels = nn.ModuleList(_Level(dimension, bins, codebook_dim) for _ in self._strides)
        # Moving average of the fraction of the vectors assigned to an entry.
        self.register_buffer('usage', torch.zeros(len(self._strides), bins))

    def reads(self, first: float, last: float) -> tuple[float, float]:
        """Return the frames of the groups that the frames may belong to; see `BaseQuantizer`."""
        reach = max(self.strides[: self.num_codebooks]) - 1
        return first - reach, last + reach

    @property
    def entry_dimension(self) -> int | None:
        """Channels of an entry."""
        return self._entry_dimension

    @property
    def strides(self) -> tuple[int, ...]:
        """Frames per code, for each codebook."""
        return self._strides

    @property
    def cardinality(self) -> int:
        """Number of entries per codebook."""
        return self._bins

    @property
    def total_codebooks(self) -> int:
        """Total number of codebooks."""
        return len(self._strides)

    @property
    def num_codebooks(self) -> int:
        """Number of codebooks in use."""
        return self._num_codebooks

    def set_num_codebooks(self, n: int) -> None:
        """Use the first `n` codebooks.

        Raises:
            ValueError: `n` is not in 1..total_codebooks.
        """
        if not 1 <= n <= self.total_codebooks:
            raise ValueError(
                f'cannot use {n} codebooks: this quantizer can use 1 to {self.total_codebooks}'
            )
        self._num_codebooks = n

    def bandwidth(self, frame_rate: float, num_codebooks: int | None = None) -> float:
        """Return the bit rate of the codes in kbps, each code of a group counted once."""
        used = self.num_codebooks if num_codebooks is None else num_codebooks
        codes = sum(frame_rate / stride for stride in self._strides[:used])
        return codes * math.log2(self.cardinality) / 1000

    def forward(self, latents: torch.Tensor, frame_rate: float) -> QuantizedResult:
        """Quantize a batch; in training mode, also update the metrics.

        The gradient passes through the projections, and straight through the search.

        Args:
            latents: float [B, D, T], B and T at least 1.
            frame_rate: frames per second (Hz).

        Returns:
            Latents in float32, codes [B, num_codebooks, T]. Metrics per codebook, [num_codebooks]:
            'usage' and 'perplexity' over about the last ten training batches. Their means:
            'codebook_usage', in 0..1, and 'codebook_perplexity', in 1..bins; and the lowest usage
            of a codebook, 'codebook_usage_min'.

        Raises:
            ValueError: latents of the wrong shape or type.
        """
        self._check_latents(latents)
        if latents.numel() == 0:
            raise ValueError(
                f'latents of shape {tuple(latents.shape)}: at least one item and one frame are '
                'needed'
            )
        with torch.autocast(latents.device.type, enabled=False):
            residual = latents.to(self._weight().dtype)
            found: list[_Found] = []
            total = torch.zeros_like(residual)
            for stride, level in self._active(self.num_codebooks):
                found.append(level(_average(residual, stride)))
                quantized = _repeat(found[-1].quantized, stride, latents.shape[-1])
                residual = residual - quantized
                total = total + quantized
            codes = [one.codes for one in found]
            if self.training:
                self._count(codes)
            return QuantizedResult(
                latents=total,
                codes=self.from_ragged(codes, latents.shape[-1]),
                bandwidth=torch.full((), self.bandwidth(frame_rate), device=latents.device),
                losses={
                    'commitment': torch.stack([one.commitment for one in found]).sum(),
                    'codebook': torch.stack([one.codebook for one in found]).sum(),
                },
                metrics=self._metrics(),
            )

    @torch.no_grad()
    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the codes, int64 [B, num_codebooks, T], of latents float [B, D, T].

        Raises:
            ValueError: latents of the wrong shape or type.
        """
        self._check_latents(latents)
        if latents.numel() == 0:
            shape = (len(latents), self.num_codebooks, latents.shape[-1])
            return torch.empty(shape, dtype=torch.int64, device=latents.device)
        with torch.autocast(latents.device.type, enabled=False):
            residual = latents.to(self._weight().dtype)
            codes: list[torch.Tensor] = []
            for stride, level in self._active(self.num_codebooks):
                codes.append(level.encode(_average(residual, stride)))
                residual = residual - _repeat(level.decode(codes[-1]), stride, latents.shape[-1])
            return self.from_ragged(codes, latents.shape[-1])

    @torch.no_grad()
    def decode(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Return the latents, float [B, D, T], of codes [B, K, T] of the first K codebooks.

        The code of a group is read from its first frame. See `check_codes` for the accepted types.

        Raises:
            ValueError: not integers, wrong shape or device, too many codebooks, or a code outside
                0..bins-1.
        """
        weight = self._weight()
        codes = check_codes(codes, self.total_codebooks, self.cardinality, weight.device)
        frames = codes.shape[-1]
        total = weight.new_zeros(len(codes), self.dimension, frames)
        if codes.numel():
            ragged = self.to_ragged(codes)
            with torch.autocast(weight.device.type, enabled=False):
                for part, (stride, level) in zip(ragged, self._active(len(ragged))):
                    total = total + _repeat(level.decode(part), stride, frames)
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
        # All levels in one table and one product: their number may differ between calls.
        strides = torch.tensor(self._strides, device=codes.device)[:number, None]
        first = torch.arange(frames, device=codes.device) // strides * strides
        offsets = torch.arange(len(levels), device=codes.device)[:number, None] * self._bins
        rows = codes.gather(2, first.expand(batch, -1, -1)) + offsets
        entries = F.embedding(rows, torch.cat([level.codebook.weight for level in levels]))
        weights = torch.stack([level.out_proj.weight[:, :, 0].t() for level in levels])
        biases = torch.stack([cast(torch.Tensor, level.out_proj.bias) for level in levels])
        total = (entries @ weights[:number]).sum(1) + biases[:number].sum(0)
        return total.transpose(1, 2).contiguous()

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

    def codebook_stats(self) -> dict[str, torch.Tensor]:
        """Return statistics of each codebook, [total_codebooks], on the device.

        'usage' is the fraction of the entries that took at least a tenth of the average number of
        vectors per entry, 'perplexity' that of the entries' fractions of the vectors, both over
        about the last ten training batches. Empty after `drop_statistics`.
        """
        if self.usage is None:
            return {}
        fractions = self.usage / self.usage.sum(-1, keepdim=True).clamp(min=1e-5)
        used = fractions >= _UNUSED_FRACTION / self._bins
        return {
            'usage': used.to(fractions.dtype).mean(-1),
            'perplexity': torch.special.entr(fractions).sum(-1).exp(),
        }

    def drop_statistics(self) -> None:
        """Free the moving averages of the metrics."""
        self.usage = None

    def _active(self, levels: int) -> list[tuple[int, _Level]]:
        """Return stride and level of the first `levels` codebooks."""
        return list(zip(self._strides[:levels], cast(list[_Level], list(self.levels))))

    def _weight(self) -> torch.Tensor:
        """Return a tensor with the type and device of the codebooks."""
        return self._active(1)[0][1].codebook.weight

    @torch.no_grad()
    def _count(self, codes: Sequence[torch.Tensor]) -> None:
        """Update the usage with codes [B, T_i] of each level; collective."""
        if self.usage is None:
            return
        counts = torch.zeros_like(self.usage[: len(codes)])
        for level, part in enumerate(codes):
            flat = part.flatten()
            counts[level].scatter_add_(0, flat, torch.ones_like(flat, dtype=counts.dtype))
        distrib.all_reduce_sum_([counts])
        fractions = counts / counts.sum(-1, keepdim=True)
        self.usage[: len(codes)].lerp_(fractions, 1 - _USAGE_DECAY)

    def _metrics(self) -> dict[str, torch.Tensor]:
        stats = {
            name: values[: self.num_codebooks] for name, values in self.codebook_stats().items()
        }
        if not stats:
            return {}
        return {
            **stats,
            'codebook_usage': stats['usage'].mean(),
            'codebook_usage_min': stats['usage'].min(),
            'codebook_perplexity': stats['perplexity'].mean(),
        }


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
