"""Finite scalar quantizer."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from audiocodec.quantization.discrete import DiscreteQuantizer, Quantized, projections

_MARGIN = 1e-3  # by which the range exceeds the outermost levels, so that they are reached
_LARGEST_CARDINALITY = 2**62


def check_levels(levels: Sequence[int]) -> list[int]:
    """Check the numbers of levels, and return them as a list.

    Raises:
        ValueError: none, one below 2, or a product that int64 cannot hold.
    """
    found = list(levels)
    if not found or any(isinstance(n, bool) or not isinstance(n, int) or n < 2 for n in found):
        raise ValueError(
            f'levels={found}: expected one integer of at least 2 for each quantized channel'
        )
    if math.prod(found) > _LARGEST_CARDINALITY:
        raise ValueError(f'levels={found}: their product, the cardinality, may be at most 2**62')
    return found


class FiniteScalarQuantizer(DiscreteQuantizer):
    """Rounds each of a few channels to one of `levels[i]` values: a single, implicit codebook.

    See FSQ, arXiv 2309.15505, section 3.1. A linear map reduces D channels to len(levels), and
    another restores them; neither is used if the numbers are equal. tanh bounds each channel to the
    range of its levels, which are shifted by half a step for even numbers. The gradient is that of
    the bounded values before rounding (straight-through). The code of a frame is the sum of
    level_i * prod(levels[:i]). There is no loss. Computes in float32, also under autocast.

    Args:
        dimension: channels D of the latents.
        levels: number of levels of each quantized channel, at least 2. The paper suggests [8, 5, 5,
            5] for 1000 codes, [7, 5, 5, 5, 5] for 4375, and [8, 8, 8, 6, 5] for 15360.

    Buffers:
        statistics: see `CodeStatistics`.

    Raises:
        ValueError: arguments out of range.
    """

    unused_codes_advice = (
        'FSQ has no codebook to collapse: unused codes are levels that the latents need not '
        'reach. Reduce {section}.levels'
    )

    _half_range: torch.Tensor
    _half_width: torch.Tensor
    _offset: torch.Tensor
    _shift: torch.Tensor
    _number: torch.Tensor
    _basis: torch.Tensor

    def __init__(self, dimension: int, levels: Sequence[int] = (8, 5, 5, 5)) -> None:
        checked = check_levels(levels)
        super().__init__(dimension, n_q=1, cardinality=math.prod(checked))
        self.levels = checked
        self.project_in, self.project_out = projections(dimension, len(self.levels))
        # [d, 1], computed from the levels: not part of the state.
        number = torch.tensor(self.levels)[:, None]
        # The margin must not add a level, for large numbers of them.
        margin = (0.5 / (number - 1)).clamp(max=_MARGIN)
        half_range = (number - 1) * (1 + margin) / 2
        offset = torch.where(number % 2 == 0, 0.5, 0.0)
        basis = torch.tensor([math.prod(self.levels[:i]) for i in range(len(self.levels))])
        for name, table in [
            ('half_range', half_range),
            ('offset', offset),
            ('shift', torch.atanh(offset / half_range)),
            ('half_width', (number // 2).float()),
            ('number', number),
            ('basis', basis[:, None]),
        ]:
            self.register_buffer(f'_{name}', table, persistent=False)

    def traced_encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Do the same as `encode`; see `BaseQuantizer`."""
        return self._encode(self._to_float(latents), self.num_codebooks)

    def traced_decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Do the same as `decode`; see `BaseQuantizer`."""
        return self._decode(codes)

    def _quantize(self, latents: torch.Tensor, levels: int) -> Quantized:
        steps = self._round(latents)
        return Quantized(self._to_latents(steps), self._to_codes(steps.detach()), losses={})

    def _encode(self, latents: torch.Tensor, levels: int) -> torch.Tensor:
        return self._to_codes(self._round(latents))

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        steps = codes // self._basis % self._number - self._number // 2
        return self._to_latents(steps.to(self._half_width.dtype))

    def _round(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the signed steps of the channels, whole numbers [B, d, T]."""
        values = self.project_in(latents)
        return _Round.apply(values, self._half_range, self._offset, self._shift)

    def _to_latents(self, steps: torch.Tensor) -> torch.Tensor:
        return self.project_out(steps / self._half_width)

    def _to_codes(self, steps: torch.Tensor) -> torch.Tensor:
        # Codes of non-finite latents are valid, too: their statistics index a table.
        digits = torch.nan_to_num(steps + self._half_width).long()
        return (digits * self._basis).sum(1, keepdim=True)


class _Round(torch.autograd.Function):
    """Bounded rounding, with the gradient of the bound.

    One function instead of several operations, which would store and read more tensors.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: torch.Tensor,
        half_range: torch.Tensor,
        offset: torch.Tensor,
        shift: torch.Tensor,
    ) -> torch.Tensor:
        bounded = torch.tanh(values + shift)
        ctx.save_for_backward(bounded, half_range)
        return torch.round(bounded * half_range - offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        bounded, half_range = ctx.saved_tensors
        return grad * half_range * (1 - bounded.square()), None, None, None
