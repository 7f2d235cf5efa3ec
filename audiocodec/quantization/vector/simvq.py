"""Residual vector quantizer with linearly transformed codebooks."""

import torch
import torch.nn.functional as F
from torch import nn

from audiocodec.quantization.discrete import DiscreteQuantizer, Quantized
from audiocodec.quantization.gradients import check_method, pass_gradient
from audiocodec.quantization.kmeans import nearest
from audiocodec.utils import distrib

_DRAW_BASIS = 0x53565101  # identifies the random stream, see `distrib.shared_generator`


class SimVectorQuantizer(DiscreteQuantizer):
    """Residual vector quantizer whose codebooks are a frozen random basis times a learned map.

    See SimVQ, arXiv 2411.02038, section 4. Every update of a map moves all entries of its codebook,
    so that none is left behind. The maps learn by gradient from the loss 'codebook', the mean over
    the codebooks used of mse(entry, residual), with a gradient for the entries; 'commitment' has
    the same value, with a gradient for the latents. Computes in float32, also under autocast.

    Args:
        dimension: channels D of the latents.
        n_q: number of codebooks, each of which quantizes the residual of the previous ones.
        bins: entries per codebook.
        q_dropout: in training, use for each batch a number of codebooks drawn uniformly from 1 to
            `num_codebooks`; the others do not learn from it.
        gradient: 'straight_through' or 'rotation', see `gradients.pass_gradient`.
        seed: seed of the bases and of the dropout.

    Attributes:
        transform: [n_q, D, D], parameter; entries are basis @ transform[level].T.

    Buffers:
        basis: [n_q, bins, D], normal with variance 1 / D.
        statistics: see `CodeStatistics`.

    Raises:
        ValueError: arguments out of range.
    """

    loss_terms = ('codebook', 'commitment')
    initialization_options = frozenset(('seed',))
    training_options = frozenset(('q_dropout', 'gradient'))
    adaptable_options = frozenset(('n_q',))
    unused_codes_advice = (
        'Try a higher losses.codebook.weight or learning rate. If nothing helps, the latents need '
        'no more codes: reduce {section}.bins, or {section}.n_q if the last levels are unused'
    )

    basis: torch.Tensor

    def __init__(
        self,
        dimension: int,
        n_q: int = 8,
        bins: int = 1024,
        q_dropout: bool = False,
        gradient: str = 'straight_through',
        seed: int = 0,
    ) -> None:
        if bins < 1:
            raise ValueError(f'bins={bins}: a codebook needs at least 1 entry')
        check_method(gradient)
        super().__init__(dimension, n_q, bins, q_dropout, seed)
        self.gradient = gradient
        generator = distrib.shared_generator(seed, _DRAW_BASIS)
        basis = torch.randn(n_q, bins, dimension, generator=generator) * dimension**-0.5
        self.register_buffer('basis', basis)
        limit = dimension**-0.5  # as in nn.Linear
        self.transform = nn.Parameter(
            torch.empty(n_q, dimension, dimension).uniform_(-limit, limit)
        )

    def traced_encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Do the same as `encode`; see `BaseQuantizer`."""
        residual, codes = latents, []
        for level in range(self.num_codebooks):
            # |x - e|² - |x|², as in `kmeans.nearest`; a convolution, since F.linear would check
            # whether batch and time can be merged, which would specialize the program
            entries = self._entries(level)
            distances = F.conv1d(residual, -2 * entries[:, :, None], entries.square().sum(-1))
            indices = distances.argmin(1)
            residual = residual - F.embedding(indices, entries).transpose(1, 2).contiguous()
            codes.append(indices)
        return torch.stack(codes, dim=1)

    def traced_decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Do the same as `decode`; see `BaseQuantizer`."""
        # all codebooks in one table: their number may differ between calls
        tables = torch.cat([self._entries(level) for level in range(self.total_codebooks)])
        offsets = torch.arange(self.total_codebooks, device=codes.device)[None, :, None]
        rows = codes + (offsets * self.cardinality)[:, : codes.shape[1]]
        return F.embedding(rows, tables).sum(1).transpose(1, 2).contiguous()

    @property
    def entry_dimension(self) -> int | None:
        """Channels of an entry."""
        return self.dimension

    def _quantize(self, latents: torch.Tensor, levels: int) -> Quantized:
        vectors = latents.transpose(1, 2).flatten(0, 1)
        quantized = torch.zeros_like(vectors)
        codes, codebook, commitment = [], [], []
        for level in range(levels):
            residual = vectors - quantized
            book = self._entries(level)
            codes.append(nearest(residual.detach(), book.detach()))
            entries = F.embedding(codes[-1], book)
            codebook.append(F.mse_loss(entries, residual.detach()))
            commitment.append(F.mse_loss(residual, entries.detach()))
            quantized = quantized + entries.detach()
        return Quantized(
            pass_gradient(_to_latents(quantized, latents), latents, self.gradient),
            torch.stack(codes).unflatten(1, (len(latents), -1)).transpose(0, 1).contiguous(),
            losses={
                'codebook': torch.stack(codebook).mean(),
                'commitment': torch.stack(commitment).mean(),
            },
        )

    def _encode(self, latents: torch.Tensor, levels: int) -> torch.Tensor:
        vectors = latents.transpose(1, 2).flatten(0, 1)
        quantized = torch.zeros_like(vectors)
        codes = []
        for level in range(levels):
            book = self._entries(level)
            codes.append(nearest(vectors - quantized, book))
            quantized = quantized + F.embedding(codes[-1], book)
        return torch.stack(codes).unflatten(1, (len(latents), -1)).transpose(0, 1).contiguous()

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        flat = codes.transpose(0, 1).flatten(1)
        quantized = self._entries(0).new_zeros(flat.shape[1], self.dimension)
        for level, indices in enumerate(flat):
            quantized = quantized + F.embedding(indices, self._entries(level))
        return _to_latents(quantized, codes)

    def _entries(self, level: int) -> torch.Tensor:
        """Return the codebook of a level, [bins, D], at least float32."""
        dtype = torch.promote_types(self._dtype(), torch.float32)
        return F.linear(self.basis[level].to(dtype), self.transform[level].to(dtype))


def _to_latents(vectors: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Map [B * T, D] to [B, D, T], with the items and frames of a tensor [B, ..., T]."""
    return vectors.view(like.shape[0], like.shape[-1], vectors.shape[1]).transpose(1, 2)
