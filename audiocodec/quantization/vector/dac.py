"""Residual vector quantizer of DAC: factorized, normalized codes, learned by gradient."""

import torch
from torch import nn

from audiocodec.quantization.discrete import DiscreteQuantizer, Quantized
from audiocodec.quantization.vector.factorized import FactorizedCodebook, first_levels, traced_sum
from audiocodec.utils import distrib

_DRAW_ITEMS = 0x44414301  # identifies the random stream, see `distrib.shared_generator`


class DACQuantizer(DiscreteQuantizer):
    """Residual vector quantizer whose codebooks have few channels (arXiv 2306.06546, section 3.1).

    Each level projects the residual to `codebook_dim` channels, chooses the entry in the most
    similar direction (both L2-normalized), and projects it back. Codebooks learn by gradient:
    'codebook' pulls the entries to the projected residuals, 'commitment' the residuals to the
    entries. Both are mean squared errors, summed over the levels that an item uses and averaged
    over the items.

    Args:
        dimension: channels D of the latents.
        n_q: number of codebooks.
        bins: entries per codebook.
        codebook_dim: channels of an entry.
        q_dropout: fraction of the items of a batch, in [0, 1], for which training draws the number
            of codebooks uniformly from 1 to `num_codebooks`.
        seed: seed of these draws.

    Raises:
        ValueError: arguments out of range.
    """

    loss_terms = ('commitment', 'codebook')
    initialization_options = frozenset(('seed',))
    training_options = frozenset(('q_dropout',))
    adaptable_options = frozenset(('n_q',))
    unused_codes_advice = (
        'Try a smaller {section}.codebook_dim, more audio per update (dataset.batch_size), or a '
        'higher losses.codebook.weight. If nothing helps, the latents need no more codes: reduce '
        '{section}.bins, or {section}.n_q if the last levels are unused'
    )

    def __init__(
        self,
        dimension: int = 1024,
        n_q: int = 9,
        bins: int = 1024,
        codebook_dim: int = 8,
        q_dropout: float = 0.5,
        seed: int = 0,
    ) -> None:
        for name, value in {'bins': bins, 'codebook_dim': codebook_dim}.items():
            if value < 1:
                raise ValueError(f'{name}={value}: expected an integer >= 1')
        if not 0 <= q_dropout <= 1:
            raise ValueError(f'q_dropout={q_dropout}: expected a fraction of the items, in [0, 1]')
        super().__init__(dimension, n_q, bins, q_dropout=False, seed=seed)
        self.item_dropout = q_dropout
        self.levels = nn.ModuleList(
            FactorizedCodebook(dimension, bins, codebook_dim) for _ in range(n_q)
        )
        self._entry_dimension = codebook_dim

    @property
    def entry_dimension(self) -> int | None:
        """Channels of an entry."""
        return self._entry_dimension

    def _quantize(self, latents: torch.Tensor, levels: int) -> Quantized:
        masks = self._draw_masks(latents, levels)
        residual = latents
        quantized = torch.zeros_like(latents)
        codes: list[torch.Tensor] = []
        losses: dict[str, list[torch.Tensor]] = {'commitment': [], 'codebook': []}
        for number, level in enumerate(self._active(levels)):
            found = level(residual)
            residual = residual - found.quantized
            kept = found.quantized.new_ones(len(latents)) if masks is None else masks[number]
            quantized = quantized + found.quantized * kept[:, None, None]
            losses['commitment'].append((found.commitment * kept).mean())
            losses['codebook'].append((found.codebook * kept).mean())
            codes.append(found.codes)
        sums = {name: torch.stack(values).sum() for name, values in losses.items()}
        return Quantized(quantized, torch.stack(codes, dim=1), sums)

    def _draw_masks(self, latents: torch.Tensor, levels: int) -> torch.Tensor | None:
        """Return 1 for each level and item that is used, [levels, B]; None for all."""
        if not (self.statistics.training and self.item_dropout):
            return None
        items = len(latents)
        first, total = distrib.rank() * items, distrib.world_size() * items
        generator = distrib.shared_generator(self.seed, _DRAW_ITEMS, self.statistics.count())
        numbers = torch.randint(1, levels + 1, (total,), generator=generator)
        # The items that are drawn are spread evenly over the batch of all workers.
        steps = (torch.arange(total + 1) * self.item_dropout).floor()
        numbers[steps[1:] == steps[:-1]] = levels
        used = torch.arange(levels)[:, None] < numbers[first : first + items]
        return used.to(latents.dtype).to(latents.device, non_blocking=True)

    def traced_encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Do the same as `encode`; see `BaseQuantizer`."""
        residual, codes = latents, []
        for level in self._active(self.num_codebooks):
            codes.append(level.traced_encode(residual))
            residual = residual - level.decode(codes[-1])
        return torch.stack(codes, dim=1)

    def traced_decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Do the same as `decode`; see `BaseQuantizer`."""
        return traced_sum(self._active(self.total_codebooks), codes)

    def _active(self, number: int) -> list[FactorizedCodebook]:
        """Return the first `number` levels."""
        return first_levels(self.levels, number)

    def _encode(self, latents: torch.Tensor, levels: int) -> torch.Tensor:
        residual, codes = latents, []
        for level in self._active(levels):
            codes.append(level.encode(residual))
            residual = residual - level.decode(codes[-1], latents.dtype)
        return torch.stack(codes, dim=1)

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(self._dtype(), torch.float32)
        latents = torch.zeros((), dtype=dtype, device=codes.device)
        for level, part in zip(self._active(codes.shape[1]), codes.unbind(1)):
            latents = latents + level.decode(part, dtype)
        return latents
