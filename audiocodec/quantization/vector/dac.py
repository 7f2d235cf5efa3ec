"""Residual vector quantizer of DAC: factorized, normalized codes, learned by gradient."""

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.modules.norm import normalize_weight
from audiocodec.quantization.discrete import DiscreteQuantizer, Projection, Quantized
from audiocodec.quantization.kmeans import nearest
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
        self.in_proj = nn.ModuleList()
        self.out_proj = nn.ModuleList()
        self.codebooks = nn.ModuleList()
        for _ in range(n_q):
            self.in_proj.append(
                normalize_weight(Projection(dimension, codebook_dim), 'weight_norm')
            )
            self.out_proj.append(
                normalize_weight(Projection(codebook_dim, dimension), 'weight_norm')
            )
            self.codebooks.append(nn.Embedding(bins, codebook_dim))

    @property
    def entry_dimension(self) -> int | None:
        """Channels of an entry."""
        return self._book(0).shape[1]

    def _quantize(self, latents: torch.Tensor, levels: int) -> Quantized:
        masks = self._draw_masks(latents, levels)
        residual = latents
        quantized = torch.zeros_like(latents)
        codes: list[torch.Tensor] = []
        losses: dict[str, list[torch.Tensor]] = {'commitment': [], 'codebook': []}
        for level in range(levels):
            projected = self.in_proj[level](residual)
            indices, entries = self._lookup(projected.detach(), level)
            used = None if masks is None else masks[level][:, None, None]
            losses['commitment'].append(_mean_error(projected, entries.detach(), used))
            losses['codebook'].append(_mean_error(entries, projected.detach(), used))
            passed = entries.detach() + (projected - projected.detach())  # the values of entries
            found = self.out_proj[level](passed)
            quantized = quantized + (found if used is None else found * used)
            residual = residual - found
            codes.append(indices)
        sums = {name: torch.stack(values).sum() for name, values in losses.items()}
        return Quantized(quantized, torch.stack(codes, dim=1), sums)

    def _draw_masks(self, latents: torch.Tensor, levels: int) -> torch.Tensor | None:
        """Return 1 for each level and item that is used, [levels, B]; None for all."""
        if not (self.training and self.item_dropout):
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

    def _lookup(self, projected: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the codes [B, T] of projected residuals [B, d, T], and their entries [B, d, T]."""
        book = self._book(level).to(projected.dtype)
        vectors = projected.transpose(1, 2).flatten(0, 1)
        indices = nearest(F.normalize(vectors), F.normalize(book.detach()))
        indices = indices.view(len(projected), -1)
        return indices, F.embedding(indices, book).transpose(1, 2)

    def _book(self, level: int) -> torch.Tensor:
        """Return the entries of a level, [bins, codebook_dim]."""
        book = self.codebooks[level]
        assert isinstance(book, nn.Embedding)
        return book.weight

    def _encode(self, latents: torch.Tensor, levels: int) -> torch.Tensor:
        residual, codes = latents, []
        for level in range(levels):
            indices, entries = self._lookup(self.in_proj[level](residual), level)
            residual = residual - self.out_proj[level](entries)
            codes.append(indices)
        return torch.stack(codes, dim=1)

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        quantized: torch.Tensor | None = None
        for level in range(codes.shape[1]):
            book = self._book(level)
            entries = F.embedding(codes[:, level], book).transpose(1, 2)
            found = self.out_proj[level](entries.to(torch.promote_types(book.dtype, torch.float32)))
            quantized = found if quantized is None else quantized + found
        assert quantized is not None, codes.shape
        return quantized


def _mean_error(
    estimate: torch.Tensor, target: torch.Tensor, used: torch.Tensor | None
) -> torch.Tensor:
    """Return the mean squared error, with 0 for the items that are not used."""
    error = (estimate - target).square()
    return (error if used is None else error * used).mean()
