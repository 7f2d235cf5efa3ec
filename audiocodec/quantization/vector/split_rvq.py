"""Split residual vector quantizer of Mimi: semantic codebooks beside acoustic ones."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from audiocodec.quantization.base import BaseQuantizer, QuantizedResult, fitting_state
from audiocodec.quantization.codes import check_codes
from audiocodec.quantization.rvq import ResidualVectorQuantizer, with_means
from audiocodec.utils import distrib

_DRAW_UNQUANTIZED = 0x53525651  # identifies the random stream, see `distrib.shared_generator`


class SplitResidualVectorQuantizer(BaseQuantizer):
    """Two residual vector quantizers of the same latents, whose outputs are added.

    See Mimi, arXiv 2410.00037, section 3.3. The first codebooks are semantic: a distillation trains
    their output, `features['semantic']`, to predict a teacher (see
    `audiocodec.losses.SemanticDistillation`). They are always in use. The acoustic quantizer does
    not depend on them, so that they need not serve the reconstruction, too. Each quantizer has its
    own projections, before and after, without bias. All computations are in float32, also under
    autocast.

    Args:
        dimension: channels D of the latents.
        n_q: number of codebooks, semantic and acoustic.
        n_q_semantic: number of semantic codebooks, below `n_q`.
        bins: entries per codebook.
        codebook_dimension: channels of the entries; None: those of the latents, not projected.
        q_dropout: in training, use for each batch a number of acoustic codebooks drawn uniformly
            from 1 to those in use.
        no_quantization_rate: in training, probability that an item of the batch is not quantized,
            so that the decoder gets its latents. The codebooks learn from all items.
        decay: see `ResidualVectorQuantizer`.
        kmeans_init: see `ResidualVectorQuantizer`.
        kmeans_iters: see `ResidualVectorQuantizer`.
        threshold_ema_dead_code: see `ResidualVectorQuantizer`.
        seed: seed of all random draws.
        gradient: see `ResidualVectorQuantizer`.

    Raises:
        ValueError: arguments out of range.
    """

    loss_terms = ('commitment',)
    initialization_options = ResidualVectorQuantizer.initialization_options
    training_options = ResidualVectorQuantizer.training_options | {'no_quantization_rate'}
    adaptable_options = ResidualVectorQuantizer.adaptable_options
    unused_codes_advice = ResidualVectorQuantizer.unused_codes_advice

    def __init__(
        self,
        dimension: int = 512,
        n_q: int = 8,
        n_q_semantic: int = 1,
        bins: int = 2048,
        codebook_dimension: int | None = 256,
        q_dropout: bool = False,
        no_quantization_rate: float = 0.0,
        decay: float = 0.99,
        kmeans_init: bool = True,
        kmeans_iters: int = 10,
        threshold_ema_dead_code: float = 2,
        seed: int = 0,
        gradient: str = 'straight_through',
    ) -> None:
        super().__init__(dimension)
        if not 1 <= n_q_semantic < n_q:
            raise ValueError(
                f'n_q={n_q}, n_q_semantic={n_q_semantic}: at least 1 semantic and 1 acoustic '
                'codebook are needed'
            )
        if codebook_dimension is not None and codebook_dimension < 1:
            raise ValueError(f'codebook_dimension={codebook_dimension}: must be at least 1')
        if not 0 <= no_quantization_rate <= 1:
            raise ValueError(
                f'no_quantization_rate={no_quantization_rate}: expected a probability in [0, 1]'
            )
        self.no_quantization_rate = no_quantization_rate
        self.seed = seed
        self.n_q_semantic = n_q_semantic
        self._num_codebooks = n_q
        size = dimension if codebook_dimension is None else codebook_dimension
        self._entry_dimension = size
        parts = [
            ResidualVectorQuantizer(
                size,
                n_q=number,
                q_dropout=q_dropout and part == 1,
                bins=bins,
                decay=decay,
                kmeans_init=kmeans_init,
                kmeans_iters=kmeans_iters,
                threshold_ema_dead_code=threshold_ema_dead_code,
                seed=seed + part,
                gradient=gradient,
            )
            for part, number in enumerate((n_q_semantic, n_q - n_q_semantic))
        ]
        outer = None if codebook_dimension is None else dimension
        self.semantic = ProjectedQuantizer(parts[0], outer)
        self.acoustic = ProjectedQuantizer(parts[1], outer)

    @property
    def q_dropout(self) -> bool:
        """Whether training draws the number of acoustic codebooks."""
        return self.acoustic.rvq.q_dropout

    @property
    def cardinality(self) -> int:
        """Number of entries per codebook."""
        return self.semantic.rvq.cardinality

    @property
    def total_codebooks(self) -> int:
        """Total number of codebooks."""
        return self.semantic.rvq.total_codebooks + self.acoustic.rvq.total_codebooks

    @property
    def num_codebooks(self) -> int:
        """Number of codebooks in use; with `q_dropout`, the maximum in training."""
        return self._num_codebooks

    @property
    def possible_num_codebooks(self) -> range:
        """Numbers of codebooks that `set_num_codebooks` accepts, ascending."""
        return range(self.n_q_semantic, self.total_codebooks + 1)

    def set_num_codebooks(self, n: int) -> None:
        """Use the first `n` codebooks, all semantic ones included.

        Raises:
            ValueError: `n` is not in n_q_semantic..total_codebooks.
        """
        if n not in self.possible_num_codebooks:
            raise ValueError(
                f'cannot use {n} codebooks: this quantizer can use {self.n_q_semantic} to '
                f'{self.total_codebooks}'
            )
        self._num_codebooks = n
        if n > self.n_q_semantic:
            self.acoustic.rvq.set_num_codebooks(n - self.n_q_semantic)

    def forward(self, latents: torch.Tensor, frame_rate: float) -> QuantizedResult:
        """Quantize a batch; in training mode, also update the codebooks.

        The commitment loss is the mean over the codebooks used, see `ResidualVectorQuantizer`, at
        the projected latents.

        Args:
            latents: float [B, D, T], B and T at least 1.
            frame_rate: frames per second (Hz).

        Returns:
            Latents in float32; codes [B, K, T], the semantic ones first; metrics of
            `ResidualVectorQuantizer`. `features['semantic']`: the output of the semantic part,
            float [B, D, T], of all items.

        Raises:
            ValueError: latents of the wrong shape or type.
        """
        self._check_batch(latents)
        unquantized = self._draw_unquantized(latents)  # before the codebooks count this update
        with torch.autocast(latents.device.type, enabled=False):
            latents = self._in_full_precision(latents)
            found = [part(latents, frame_rate) for part in self._parts()]
            quantized = torch.stack([part.latents for part in found]).sum(0)
            if unquantized is not None:
                quantized = torch.where(unquantized, latents, quantized)
            counts = [part.codes.shape[1] for part in found]
            commitments = [count * part.losses['commitment'] for count, part in zip(counts, found)]
            return QuantizedResult(
                latents=quantized,
                codes=torch.cat([part.codes for part in found], dim=1),
                bandwidth=torch.stack([part.bandwidth for part in found]).sum(0),
                losses={'commitment': torch.stack(commitments).sum(0) / sum(counts)},
                metrics=_merged([part.metrics for part in found]),
                features={'semantic': found[0].latents},
            )

    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the codes, int64 [B, num_codebooks, T], of latents float [B, D, T].

        Raises:
            ValueError: latents of the wrong shape or type.
        """
        self._check_latents(latents)
        with torch.autocast(latents.device.type, enabled=False):
            latents = self._in_full_precision(latents)
            return torch.cat([part.encode(latents) for part in self._parts()], dim=1)

    def decode(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Return the latents, float [B, D, T], of codes [B, K, T] of the first K codebooks.

        See `check_codes` for the accepted types.

        Raises:
            ValueError: not integers, wrong shape or device, too many codebooks, or a code outside
                0..bins-1.
        """
        codes = check_codes(codes, self.total_codebooks, self.cardinality, self._device())
        with torch.autocast(codes.device.type, enabled=False):
            latents = self.semantic.decode(codes[:, : self.n_q_semantic])
            if codes.shape[1] > self.n_q_semantic:
                latents = latents + self.acoustic.decode(codes[:, self.n_q_semantic :])
        return latents

    @property
    def entry_dimension(self) -> int | None:
        """Channels of an entry."""
        return self._entry_dimension

    def traced_encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Do the same as `encode`; see `BaseQuantizer`."""
        return torch.cat([part.traced_encode(latents) for part in self._parts()], dim=1)

    def traced_decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Do the same as `decode`; see `BaseQuantizer`."""
        # All codebooks in one table, and masks instead of slices: a slice whose length is the
        # number of acoustic codebooks in use, possibly 0, would specialize the program.
        embed = torch.cat([part.rvq.codebooks.embed for part in (self.semantic, self.acoustic)])
        levels = torch.arange(len(embed), device=codes.device)[None, :, None]
        rows = codes + (levels * self.cardinality)[:, : codes.shape[1]]
        entries = F.embedding(rows, embed.flatten(0, 1))  # [B, K, T, codebook_dimension]
        is_semantic = (levels < self.n_q_semantic)[:, : codes.shape[1], :, None].to(entries.dtype)
        semantic = (entries * is_semantic).sum(1).transpose(1, 2).contiguous()
        acoustic = (entries * (1 - is_semantic)).sum(1).transpose(1, 2).contiguous()
        return _traced(self.semantic.output_proj, semantic) + _traced(
            self.acoustic.output_proj, acoustic
        )

    def rounding_ties(
        self, latents: torch.Tensor, codes: torch.Tensor, found: torch.Tensor
    ) -> float:
        """Compare different codes of the same latents, part by part; see `BaseQuantizer`."""
        with torch.no_grad():
            return max(
                part.rvq.rounding_ties(part.input_proj(latents), codes[:, own], found[:, own])
                for part, own in (
                    (self.semantic, slice(None, self.n_q_semantic)),
                    (self.acoustic, slice(self.n_q_semantic, None)),
                )
            )

    def adapted_state(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the state of a quantizer with another number of acoustic codebooks, adapted.

        See `ResidualVectorQuantizer.adapted_state`.
        """
        prefix = 'acoustic.rvq.'
        acoustic = {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
        adapted = self.acoustic.rvq.adapted_state(acoustic)
        return {
            **fitting_state(self, state),
            **{f'{prefix}{name}': value for name, value in adapted.items()},
        }

    def settle_statistics(self) -> None:
        """Adapt the statistics to the entries; see `Codebooks.settle_statistics`."""
        self.semantic.rvq.settle_statistics()
        self.acoustic.rvq.settle_statistics()

    def drop_statistics(self) -> None:
        """Keep only what encoding and decoding need; see `BaseQuantizer`."""
        self.semantic.rvq.drop_statistics()
        self.acoustic.rvq.drop_statistics()

    def _parts(self) -> list['ProjectedQuantizer']:
        """Return the parts in use."""
        return [self.semantic, self.acoustic][: 1 + (self.num_codebooks > self.n_q_semantic)]

    def _in_full_precision(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.to(self.semantic.rvq.codebooks.embed.dtype)

    def _draw_unquantized(self, latents: torch.Tensor) -> torch.Tensor | None:
        """Return which items are not quantized, bool [B, 1, 1]; None if all are.

        The draws are those of a single worker with the whole batch.
        """
        counter = self.semantic.rvq.codebooks
        if not counter.training or self.no_quantization_rate == 0:
            return None
        generator = distrib.shared_generator(self.seed, _DRAW_UNQUANTIZED, counter.count())
        draws = torch.rand(distrib.world_size(), len(latents), generator=generator)
        drawn = draws[distrib.rank()] < self.no_quantization_rate
        return drawn.view(-1, 1, 1).to(latents.device, non_blocking=True)


class ProjectedQuantizer(nn.Module):
    """Residual vector quantizer between two projections.

    Args:
        rvq: the quantizer.
        dimension: channels of the latents; None: no projections.
    """

    def __init__(self, rvq: ResidualVectorQuantizer, dimension: int | None) -> None:
        super().__init__()
        self.rvq = rvq
        self.input_proj: nn.Module = nn.Identity()
        self.output_proj: nn.Module = nn.Identity()
        if dimension is not None:
            self.input_proj = _Projection(dimension, rvq.dimension, 1, bias=False)
            self.output_proj = _Projection(rvq.dimension, dimension, 1, bias=False)

    def forward(self, latents: torch.Tensor, frame_rate: float) -> QuantizedResult:
        """Quantize latents [B, dimension, T]; see `ResidualVectorQuantizer`."""
        found = self.rvq(self.input_proj(latents), frame_rate)
        return found._replace(latents=self.output_proj(found.latents))

    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the codes, int64 [B, K, T], of latents [B, dimension, T]."""
        return self.rvq.encode(self.input_proj(latents))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the latents [B, dimension, T] of codes [B, K, T]."""
        return self.output_proj(self.rvq.decode(codes))

    def traced_encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Do the same as `encode`; see `BaseQuantizer`."""
        return self.rvq.traced_encode(_traced(self.input_proj, latents))


class _Projection(nn.Conv1d):
    """Convolution with kernel size 1, by one product per item; see `discrete.Projection`."""

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Map [B, in_channels, T] to [B, out_channels, T]; T may be 0."""
        return torch.bmm(self.weight[:, :, 0].expand(len(latents), -1, -1), latents)


def _traced(projection: nn.Module, latents: torch.Tensor) -> torch.Tensor:
    """Apply a projection by an operator that does not specialize a program."""
    if isinstance(projection, _Projection):
        return F.conv1d(latents, projection.weight)
    return latents


def _merged(metrics: list[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Concatenate the metrics per codebook of the parts, and compute their means again."""
    names = [name for name, value in metrics[0].items() if value.dim() == 1]
    return with_means({name: torch.cat([part[name] for part in metrics]) for name in names})
