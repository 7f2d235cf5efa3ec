"""Codebook with few channels, the level of DAC's and SNAC's residual quantizers."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.modules.norm import normalize_weight
from audiocodec.quantization.discrete import Projection
from audiocodec.quantization.kmeans import nearest


class Found(NamedTuple):
    """Latents quantized by one level.

    Attributes:
        quantized: [B, D, T], with the gradient of the projected latents.
        codes: int64 [B, T].
        commitment: [B], mean square distance of the projected latents from the fixed entries.
        codebook: [B], the same distance, of the entries from the fixed latents.
    """

    quantized: torch.Tensor
    codes: torch.Tensor
    commitment: torch.Tensor
    codebook: torch.Tensor


class FactorizedCodebook(nn.Module):
    """Projects latents to few channels, chooses the entry at the smallest angle, projects it back.

    See DAC, arXiv 2306.06546, section 3.1. Entries learn by the gradient of `codebook`.

    Args:
        dimension: channels D of the latents.
        bins: entries.
        codebook_dim: channels of an entry.
    """

    def __init__(self, dimension: int, bins: int, codebook_dim: int) -> None:
        super().__init__()
        self.in_proj = normalize_weight(Projection(dimension, codebook_dim), 'weight_norm')
        self.out_proj = normalize_weight(Projection(codebook_dim, dimension), 'weight_norm')
        self.codebook = nn.Embedding(bins, codebook_dim)

    def forward(self, latents: torch.Tensor) -> Found:
        """Quantize latents [B, D, T]."""
        projected = self.in_proj(latents)
        codes = self._search(projected)
        entries = self._entries(codes, projected.dtype)
        # Zeros that carry the gradient: adding them leaves the values exactly those of decode.
        carrier = projected - projected.detach()
        return Found(
            self.out_proj(entries.detach() + carrier),
            codes,
            (projected - entries.detach()).square().mean((1, 2)),
            (entries - projected.detach()).square().mean((1, 2)),
        )

    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the codes, int64 [B, T], of latents [B, D, T]."""
        return self._search(self.in_proj(latents))

    def decode(self, codes: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return the latents [B, D, T] of codes [B, T], computed in a type."""
        return self.out_proj(self._entries(codes, dtype or self.codebook.weight.dtype))

    def traced_encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Do the same as `encode`; a convolution can be traced for any batch and length."""
        book = F.normalize(self.codebook.weight)
        vectors = F.normalize(self.in_proj(latents), dim=1)
        return F.conv1d(vectors, -2 * book[:, :, None], book.square().sum(-1)).argmin(1)

    def _entries(self, codes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return the entries [B, d, T] of codes [B, T]."""
        return self.codebook(codes).to(dtype).transpose(1, 2)

    @torch.no_grad()
    def _search(self, projected: torch.Tensor) -> torch.Tensor:
        """Return the codes [B, T] of projected latents [B, d, T]."""
        vectors = F.normalize(projected.transpose(1, 2).flatten(0, 1))
        codes = nearest(vectors, F.normalize(self.codebook.weight.to(vectors.dtype)))
        return codes.view(projected.shape[0], -1)


def first_levels(levels: nn.ModuleList, number: int) -> list[FactorizedCodebook]:
    """Return the first levels of a list, of which all are `FactorizedCodebook`s."""
    return [level for level in levels[:number] if isinstance(level, FactorizedCodebook)]


def traced_sum(levels: Sequence[FactorizedCodebook], codes: torch.Tensor) -> torch.Tensor:
    """Return the sum of the latents [B, D, T] that the first K levels decode from [B, K, T].

    All levels are in one table and one product, so that a program can be traced for any K.
    """
    number = codes.shape[1]
    bins = levels[0].codebook.num_embeddings
    offsets = torch.arange(len(levels), device=codes.device)[:number, None] * bins
    table = torch.cat([level.codebook.weight for level in levels])
    weights = torch.stack([level.out_proj.weight.t() for level in levels])
    biases = torch.stack([level.out_proj.bias for level in levels])
    entries = F.embedding(codes + offsets, table)  # [B, K, T, d]
    total = (entries @ weights[:number]).sum(1) + biases[:number].sum(0)
    return total.transpose(1, 2).contiguous()
