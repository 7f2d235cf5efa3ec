"""Residual vector quantizer of DAC (arXiv 2306.06546, section 3.2), trained by gradient."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.modules.conv import NormConv1d
from audiocodec.quantization.base import BaseQuantizer, QuantizedResult
from audiocodec.quantization.codes import check_codes
from audiocodec.quantization.kmeans import nearest
from audiocodec.utils import distrib

_DRAW_DROPOUT = 0x44414301  # identifies the random stream, see `distrib.shared_generator`
_USAGE_DECAY = 0.9  # of the average of the counts: about ten updates
_UNUSED_FRACTION = 0.1  # of the average count, below which an entry counts as unused


class DACQuantizer(BaseQuantizer):
    """Residual vector quantizer with factorized, normalized codes.

    Each level projects its residual to a few dimensions, chooses the codebook entry with the
    highest cosine similarity there, and projects that entry back. Codebooks and projections learn
    by gradient. All computations are in float32, also under autocast.

    Quantizer dropout: in training, a fraction of the items of a batch use only the first codebooks,
    a number drawn uniformly from 1 to `num_codebooks` for each. N workers with batches of B draw
    like one worker with a batch of N x B. The draws depend on `seed` and on a counter that is part
    of the state.

    Args:
        dimension: channels D of the latents.
        n_q: number of codebooks.
        bins: entries per codebook.
        codebook_dim: dimensions d in which entries are compared.
        q_dropout: fraction of the items with quantizer dropout, in [0, 1].
        seed: seed of all random draws in training.

    Buffers:
        usage: [n_q, bins], moving average of the number of vectors per entry.
        updates: 0-d int64, training updates so far.

    Raises:
        ValueError: arguments out of range; the message names all of them.
    """

    loss_terms = ('commitment', 'codebook')
    initialization_options = frozenset(('seed',))
    training_options = frozenset(('q_dropout',))
    unused_codes_advice = (
        'Try more audio per update (dataset.batch_size, dataset.segment_duration), a higher '
        'losses.codebook.weight, or a lower {section}.codebook_dim. If nothing helps, the latents '
        'need no more codes: reduce {section}.bins, or {section}.n_q if the last levels are unused'
    )

    usage: torch.Tensor | None
    updates: torch.Tensor | None

    def __init__(
        self,
        dimension: int = 1024,
        n_q: int = 9,
        bins: int = 1024,
        codebook_dim: int = 8,
        q_dropout: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(dimension)
        checks = [
            (n_q < 1, f'n_q={n_q}: at least 1 codebook is needed'),
            (bins < 1, f'bins={bins}: a codebook needs at least 1 entry'),
            (codebook_dim < 1, f'codebook_dim={codebook_dim}: at least 1 dimension is needed'),
            (not 0 <= q_dropout <= 1, f'q_dropout={q_dropout}: must be a fraction, in [0, 1]'),
        ]
        problems = [message for is_wrong, message in checks if is_wrong]
        if problems:
            raise ValueError('; '.join(problems))
        self.q_dropout = float(q_dropout)
        self.seed = seed
        self._num_codebooks = n_q
        self._bins = bins
        self.levels = nn.ModuleList(_Level(dimension, bins, codebook_dim) for _ in range(n_q))
        self.register_buffer('usage', torch.zeros(n_q, bins))
        self.register_buffer('updates', torch.zeros((), dtype=torch.int64))
        # Copy of `updates` on the host; None: not known, read the buffer.
        self._updates: int | None = 0

    @property
    def cardinality(self) -> int:
        """Number of entries per codebook."""
        return self._bins

    @property
    def total_codebooks(self) -> int:
        """Total number of codebooks."""
        return len(self.levels)

    @property
    def num_codebooks(self) -> int:
        """Number of codebooks in use; with `q_dropout`, the maximum in training."""
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

    def forward(self, latents: torch.Tensor, frame_rate: float) -> QuantizedResult:
        """Quantize a batch; in training mode, with quantizer dropout.

        The gradient of a chosen entry is passed on to the projected residual unchanged
        (straight-through). Entries learn only by the codebook loss, which is the mean square
        distance to the projected residuals; the commitment loss has the same value and its gradient
        goes to the residuals. Both are means over the items, and sums over the codebooks that an
        item uses.

        Args:
            latents: float [B, D, T], B and T at least 1.
            frame_rate: frames per second (Hz).

        Returns:
            Latents in float32; the codes of all codebooks in use, also of those that an item does
            not use; the mean bandwidth of the items. Metrics per codebook, [num_codebooks]: 'usage'
            and 'perplexity', over about the last ten training batches, with their means
            'codebook_usage' and 'codebook_perplexity', and 'codebook_usage_min'.

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
            used = self._draw_used(len(latents)) if self.training else None
            found = self._quantize(latents.to(self._dtype), used)
            if self.training:
                self._count(found.codes)
            mean_used = self.num_codebooks if used is None else used.double().mean().item()
            bandwidth = self.bandwidth(frame_rate, 1) * mean_used
            return QuantizedResult(
                latents=found.latents,
                codes=found.codes,
                bandwidth=torch.full((), bandwidth, device=latents.device),
                losses={'commitment': found.commitment, 'codebook': found.codebook},
                metrics=self._metrics(),
            )

    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the codes, int64 [B, num_codebooks, T], of latents float [B, D, T].

        Raises:
            ValueError: latents of the wrong shape or type.
        """
        self._check_latents(latents)
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            return self._quantize(latents.to(self._dtype), None).codes

    def decode(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Return the latents, float [B, D, T], of codes [B, K, T] of the first K codebooks.

        See `check_codes` for the accepted types.

        Raises:
            ValueError: not integers, wrong shape or device, too many codebooks, or a code outside
                0..bins-1.
        """
        device = self._levels[0].codebook.weight.device
        codes = check_codes(codes, self.total_codebooks, self.cardinality, device)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            # in the order of `forward`, so that the latents are exactly the same
            total = torch.zeros((), device=device, dtype=self._dtype)
            for level, indices in zip(self._levels, codes.unbind(1)):
                total = total + level.out_proj(level.entries(indices))
            return total

    def drop_statistics(self) -> None:
        """Free the buffers that only training needs."""
        self.usage = self.updates = None

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Load a state; statistics that files of other programs lack start at zero."""
        for name in ('usage', 'updates'):
            buffer = getattr(self, name)
            if buffer is not None:
                state_dict.setdefault(prefix + name, torch.zeros_like(buffer))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._updates = None

    @property
    def _levels(self) -> list['_Level']:
        return list(self.levels)  # type: ignore[arg-type]

    @property
    def _dtype(self) -> torch.dtype:
        return self._levels[0].codebook.weight.dtype

    def _quantize(self, latents: torch.Tensor, used: torch.Tensor | None) -> '_Quantized':
        """Quantize latents [B, D, T]; item b uses `used[b]` codebooks, or all in use if None."""
        masks = None
        if used is not None:
            masks = (torch.arange(self.num_codebooks)[:, None] < used).to(latents.dtype)
            masks = masks.to(latents.device, non_blocking=True)
        total = commitment = codebook = latents.new_zeros(())
        residual, codes = latents, []
        for index, level in enumerate(self._levels[: self.num_codebooks]):
            projected = level.in_proj(residual)
            indices = level.nearest(projected)
            entries = level.entries(indices)
            # Zeros that carry the gradient: adding them leaves the values exactly the entries.
            carrier = projected - projected.detach()
            quantized = level.out_proj(entries.detach() + carrier)
            pulls = F.mse_loss(projected, entries.detach(), reduction='none').mean((1, 2))
            moves = F.mse_loss(entries, projected.detach(), reduction='none').mean((1, 2))
            residual = residual - quantized
            if masks is not None:
                quantized = quantized * masks[index][:, None, None]
                pulls, moves = pulls * masks[index], moves * masks[index]
            total = total + quantized
            commitment, codebook = commitment + pulls.mean(), codebook + moves.mean()
            codes.append(indices)
        return _Quantized(total, torch.stack(codes, 1), commitment, codebook)

    def _draw_used(self, batch: int) -> torch.Tensor | None:
        """Return the number of codebooks of each item, int64 [B] on the CPU; None: all in use."""
        if self._updates is None:
            assert self.updates is not None
            self._updates = int(self.updates)
        count = int(batch * distrib.world_size() * self.q_dropout)
        if not count:
            return None
        # for the batches of all workers, concatenated by rank
        generator = distrib.shared_generator(self.seed, _DRAW_DROPOUT, self._updates)
        draws = torch.randint(1, self.num_codebooks + 1, (count,), generator=generator)
        used = torch.full((batch * distrib.world_size(),), self.num_codebooks)
        used[:count] = draws
        return used[batch * distrib.rank() :][:batch]

    @torch.no_grad()
    def _count(self, codes: torch.Tensor) -> None:
        """Add the codes [B, K, T] of a training batch to the statistics."""
        assert self.usage is not None
        assert self.updates is not None
        flat = codes.transpose(0, 1).flatten(1)
        counts = torch.zeros_like(self.usage[: len(flat)])
        counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=counts.dtype))
        distrib.all_reduce_sum_([counts])
        self.usage[: len(flat)].lerp_(counts, 1 - _USAGE_DECAY)
        self.updates += 1
        if self._updates is not None:
            self._updates += 1

    def _metrics(self) -> dict[str, torch.Tensor]:
        if self.usage is None:
            return {}
        counts = self.usage[: self.num_codebooks]
        fractions = counts / counts.sum(-1, keepdim=True).clamp(min=1e-12)
        is_used = fractions >= _UNUSED_FRACTION / self.cardinality
        usage = is_used.to(fractions.dtype).mean(-1)
        perplexity = torch.special.entr(fractions).sum(-1).exp()
        return {
            'usage': usage,
            'perplexity': perplexity,
            'codebook_usage': usage.mean(),
            'codebook_usage_min': usage.min(),
            'codebook_perplexity': perplexity.mean(),
        }


class _Quantized(NamedTuple):
    """Latents [B, D, T], codes int64 [B, K, T], and the two losses, 0-d."""

    latents: torch.Tensor
    codes: torch.Tensor
    commitment: torch.Tensor
    codebook: torch.Tensor


class _Level(nn.Module):
    """Projections and codebook of one level."""

    def __init__(self, dimension: int, bins: int, codebook_dim: int) -> None:
        super().__init__()
        self.in_proj = NormConv1d(dimension, codebook_dim, 1, norm='weight_norm')
        self.out_proj = NormConv1d(codebook_dim, dimension, 1, norm='weight_norm')
        self.codebook = nn.Embedding(bins, codebook_dim)

    @torch.no_grad()
    def nearest(self, projected: torch.Tensor) -> torch.Tensor:
        """Return the entry nearest by cosine similarity, int64 [B, T], of vectors [B, d, T]."""
        vectors = F.normalize(projected.transpose(1, 2).flatten(0, 1))
        indices = nearest(vectors, F.normalize(self.codebook.weight))
        return indices.view(len(projected), -1)

    def entries(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the entries [B, d, T] of codes int64 [B, T]."""
        return self.codebook(codes).transpose(1, 2)
