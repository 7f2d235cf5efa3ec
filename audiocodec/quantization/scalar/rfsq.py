"""Residual finite scalar quantizer."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from audiocodec.quantization.discrete import DiscreteQuantizer, Quantized, projections
from audiocodec.quantization.scalar.fsq import check_levels
from audiocodec.utils import distrib

_DRAW_DITHER = 0x46535101  # identifies the random stream, see `distrib.shared_generator`


class ResidualFiniteScalarQuantizer(DiscreteQuantizer):
    """Rounds each of a few channels to `levels[i]` values, then n_q - 1 times what remains.

    See Stable-Codec, arXiv 2411.19842, section 3.2, for the symmetric levels and the noise. Channel
    x is bounded to c tanh(x / c), with c = L / (L - 1), whose range L cells of equal width around
    the levels -1, -1 + 2 / (L - 1), ..., 1 divide exactly. Each cell is divided alike by the next
    codebook, on the scale 1 / L: n_q codebooks are a uniform quantizer with L**n_q levels. (The
    paper decomposes a trained quantizer, on the scale 1 / (L - 1).)

    The gradient is that of the bounded values, the same for every number of codebooks
    (straight-through). Linear maps reduce D channels to len(levels), and restore them, unless the
    numbers are equal. There is no loss. Computes in float32, also under autocast.

    Args:
        dimension: channels D of the latents.
        n_q: number of codebooks.
        levels: number of levels of each quantized channel, at least 2.
        q_dropout: in training, use for each batch a number of codebooks drawn uniformly from 1 to
            `num_codebooks`, so that one model serves several bit rates.
        dither: fraction of the items of a training batch whose latents are the bounded values with
            uniform noise in [-1/2, 1/2] of a cell, instead of rounded. It gives the encoder exact
            gradients, and the decoder continuous inputs; the paper uses 0.5. Which items, and the
            noise, depend on `seed`, a counter that is part of the state, and the item's number in
            the batch of all workers. The codes are those of the rounded values.
        seed: seed of all random draws.

    Buffers:
        statistics: see `CodeStatistics`.

    Raises:
        ValueError: arguments out of range.
    """

    initialization_options = frozenset(('seed',))
    training_options = frozenset(('q_dropout', 'dither'))
    adaptable_options = frozenset(('n_q',))
    unused_codes_advice = 'Reduce {section}.levels, or {section}.n_q if the last levels are unused'

    _limit: torch.Tensor
    _scales: torch.Tensor
    _number: torch.Tensor
    _basis: torch.Tensor

    def __init__(
        self,
        dimension: int,
        n_q: int = 4,
        levels: Sequence[int] = (5, 5, 5, 5),
        q_dropout: bool = False,
        dither: float = 0.0,
        seed: int = 0,
    ) -> None:
        checked = check_levels(levels)
        super().__init__(dimension, n_q, math.prod(checked), q_dropout, seed)
        self.levels = checked
        if not 0 <= dither <= 1:
            raise ValueError(f'dither={dither}: expected a fraction of the items, in [0, 1]')
        self.dither = dither
        self.project_in, self.project_out = projections(dimension, len(self.levels))
        # [d, 1] or [n_q, d, 1], computed from the levels: not part of the state.
        number = torch.tensor(self.levels)[:, None]
        powers = torch.arange(n_q)[:, None, None]
        basis = torch.tensor([math.prod(self.levels[:i]) for i in range(len(self.levels))])
        for name, table in [
            ('limit', 1 + 1 / (number - 1)),
            ('scales', number.float() ** -powers),
            ('number', number),
            ('basis', basis[:, None]),
        ]:
            self.register_buffer(f'_{name}', table, persistent=False)

    def traced_encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Do the same as `encode`; see `BaseQuantizer`."""
        return self._encode(self._to_float(latents), self.num_codebooks)

    def traced_decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Do the same as `decode`; see `BaseQuantizer`."""
        # all levels at once: their number may differ between calls
        digits = (codes[:, :, None] // self._basis % self._number).to(self._limit.dtype)
        return self.project_out((self._values(digits) * self._scales[: codes.shape[1]]).sum(1))

    def _quantize(self, latents: torch.Tensor, levels: int) -> Quantized:
        values = self.project_in(latents)
        bounded, digits = self._round(values.detach(), levels)
        quantized = self._sum(digits)
        if self.statistics.training and self.dither:
            noisy, is_noisy = self._add_noise(bounded, levels)
            quantized = torch.where(is_noisy, noisy, quantized)
        quantized = _StraightThrough.apply(values, quantized, bounded, self._limit)
        return Quantized(self.project_out(quantized), self._to_codes(digits), losses={})

    def _encode(self, latents: torch.Tensor, levels: int) -> torch.Tensor:
        return self._to_codes(self._round(self.project_in(latents), levels)[1])

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        digits = codes[:, :, None] // self._basis % self._number
        return self.project_out(self._sum(list(digits.to(self._limit.dtype).unbind(1))))

    def _round(self, values: torch.Tensor, levels: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the bounded values [B, d, T], and for each level whole numbers from 0 to L - 1."""
        bounded = torch.tanh(values / self._limit) * self._limit
        residual = bounded
        digits = []
        for scale in self._scales[:levels]:
            # Values outside [-1, 1] belong to the outermost levels.
            scaled = (residual / scale).clamp(-1, 1)
            digits.append(torch.floor((self._number - 1) * (scaled + 1) / 2 + 0.5))
            residual = residual - self._values(digits[-1]) * scale
        return bounded, digits

    def _values(self, digits: torch.Tensor) -> torch.Tensor:
        return digits * (2 / (self._number - 1)) - 1

    def _sum(self, digits: list[torch.Tensor]) -> torch.Tensor:
        """Return the quantized values [B, d, T] of the digits of the first levels."""
        quantized = self._values(digits[0])  # the first scale is 1
        for digit, scale in zip(digits[1:], self._scales[1:]):
            quantized = quantized + self._values(digit) * scale
        return quantized

    def _to_codes(self, digits: list[torch.Tensor]) -> torch.Tensor:
        # Codes of non-finite latents are valid, too: their statistics index a table.
        whole = torch.nan_to_num(torch.stack(digits, 1)).long()
        return (whole * self._basis).sum(2)

    def _add_noise(self, bounded: torch.Tensor, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the noisy values [B, d, T], and the items [B, 1, 1] to use them for."""
        # Uniform in [-1, 1]; two draws per item, the first of which selects it.
        noise = torch.empty_like(bounded)
        selected = bounded.new_empty(len(bounded), 1, 1)
        count = self.statistics.count()
        generators = distrib.item_generators(
            len(bounded), bounded.device, self.seed, _DRAW_DITHER, count
        )
        for item, draw, generator in zip(noise, selected, generators):
            draw.uniform_(generator=generator)
            item.uniform_(-1, 1, generator=generator)
        half_cell = self._scales[levels - 1] / (self._number - 1)
        return bounded + noise * half_cell, selected < self.dither


class _StraightThrough(torch.autograd.Function):
    """Returns the quantized values, with the gradient of limit * tanh(values / limit)."""

    @staticmethod
    def forward(
        ctx: Any,
        values: torch.Tensor,
        quantized: torch.Tensor,
        bounded: torch.Tensor,
        limit: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(bounded, limit)
        return quantized.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        bounded, limit = ctx.saved_tensors
        return grad * (1 - (bounded / limit).square()), None, None, None
