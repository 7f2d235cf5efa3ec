"""Residual vector quantizer of EnCodec and SoundStream."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional as F

from audiocodec.quantization.base import BaseQuantizer, QuantizedResult
from audiocodec.quantization.codebook import Codebooks
from audiocodec.quantization.codes import check_codes
from audiocodec.quantization.gradients import METHODS, pass_gradient
from audiocodec.utils import distrib

_DRAW_DROPOUT = 0x52565105  # identifies the random stream, see `distrib.shared_generator`

# Rounding errors that may decide between two nearly equal distances: of the latents, relative to
# the largest of them (sums of thousands of products in another order), and of the squared
# distances, relative to that of the longest vector (sums of about a hundred products: about ten
# units of float32 spacing).
LATENT_ROUNDING = 1e-5
DISTANCE_ROUNDING = 32 * torch.finfo(torch.float32).eps

# `threshold_ema_dead_code` refers to a batch with this many vectors per codebook entry.
VECTORS_PER_CODE = 20


class ResidualVectorQuantizer(BaseQuantizer):
    """Residual vector quantizer with codebooks learned by moving averages.

    See EnCodec, arXiv 2210.13438, section 3.2. In training mode, `forward` updates the codebooks on
    all workers together: N workers with batches of B train exactly like one worker with a batch of
    N x B. The first training batch initializes every codebook by k-means. Random draws depend on
    `seed` and on a counter that is part of the state. All computations are in float32, also under
    autocast.

    Dead codes: a code that few vectors choose is replaced by a vector of the current batch (a
    residual at its level). `threshold_ema_dead_code` sets the limit, as a number of vectors in a
    batch with 20 vectors per code. With `cluster_size` the moving average of the number of vectors
    that choose a code in an update, a code is replaced if
        cluster_size < threshold_ema_dead_code / 20 * mean of cluster_size over the codebook.
    The default of 2 is thus a tenth of the average, for any batch size, number of workers and
    codebook size. (As an absolute number of vectors per batch, 2 would be 43 % of the average with
    64 x 1 s at 75 frames/s and 1024 codes, and 128 % of it at 50 frames/s with 2048 codes.)

    Args:
        dimension: channels D of the latents.
        n_q: number of codebooks.
        q_dropout: in training, use for each batch a number of codebooks drawn uniformly from 1 to
            `num_codebooks`. Unused codebooks learn from the batch, too: their residuals do not
            depend on the draw, and the last codebook, used in one of `num_codebooks` updates, could
            not keep up with the latents otherwise.
        bins: entries per codebook.
        decay: decay of the moving averages, in [0, 1); they start shorter, see `Codebooks`.
        kmeans_init: initialize the codebooks by k-means on the first training batch. Without it,
            and before that batch, they are random.
        kmeans_iters: iterations of k-means.
        threshold_ema_dead_code: when to replace a code, see above, in [0, 20); 0: never.
        seed: seed of all random draws.
        gradient: of the quantized latents at `latents`: 'straight_through' or 'rotation', see
            `gradients.pass_gradient`.

    Raises:
        ValueError: arguments out of range; the message names all of them.
    """

    loss_terms = ('commitment',)
    initialization_options = frozenset(('kmeans_init', 'kmeans_iters', 'seed'))
    training_options = frozenset(('q_dropout', 'decay', 'threshold_ema_dead_code', 'gradient'))
    adaptable_options = frozenset(('n_q',))
    unused_codes_advice = (
        'Try {section}.kmeans_init=true; a higher {section}.threshold_ema_dead_code, which '
        'replaces dead codes sooner; or more audio per update (dataset.batch_size, '
        'dataset.segment_duration). If nothing helps, the latents need no more codes: reduce '
        '{section}.bins, or {section}.n_q if the last levels are unused'
    )

    def __init__(
        self,
        dimension: int = 256,
        n_q: int = 8,
        q_dropout: bool = False,
        bins: int = 1024,
        decay: float = 0.99,
        kmeans_init: bool = True,
        kmeans_iters: int = 10,
        threshold_ema_dead_code: float = 2,
        seed: int = 0,
        gradient: str = 'straight_through',
    ) -> None:
        super().__init__(dimension)
        checks = [
            (n_q < 1, f'n_q={n_q}: at least 1 codebook is needed'),
            (bins < 1, f'bins={bins}: a codebook needs at least 1 entry'),
            (not 0 <= decay < 1, f'decay={decay}: must be in [0, 1)'),
            (
                kmeans_init and kmeans_iters < 1,
                f'kmeans_iters={kmeans_iters}: must be at least 1 with kmeans_init',
            ),
            (
                not 0 <= threshold_ema_dead_code < VECTORS_PER_CODE,
                f'threshold_ema_dead_code={threshold_ema_dead_code}: must be in [0, '
                f'{VECTORS_PER_CODE}), 0 for never; at {VECTORS_PER_CODE} a code with the average '
                'number of vectors would be dead',
            ),
            (
                gradient not in METHODS,
                f'gradient={gradient}: expected one of {", ".join(METHODS)}',
            ),
        ]
        problems = [message for is_wrong, message in checks if is_wrong]
        if problems:
            raise ValueError('; '.join(problems))
        self.q_dropout = q_dropout
        self.seed = seed
        self.gradient = gradient
        self._num_codebooks = n_q
        self.codebooks = Codebooks(
            n_q,
            bins,
            dimension,
            decay=decay,
            dead_fraction=threshold_ema_dead_code / VECTORS_PER_CODE,
            kmeans_iters=kmeans_iters if kmeans_init else 0,
            seed=seed,
        )

    @property
    def cardinality(self) -> int:
        """Number of entries per codebook."""
        return self.codebooks.bins

    @property
    def total_codebooks(self) -> int:
        """Total number of codebooks."""
        return len(self.codebooks.embed)

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
        """Quantize a batch; in training mode, also update the codebooks.

        The gradient of the quantized latents is passed on to `latents` unchanged, or rotated (see
        `gradient`). The commitment loss is the mean of mse(chosen entry, residual) over the
        codebooks used; its gradient goes to the latents only.

        Args:
            latents: float [B, D, T], B and T at least 1.
            frame_rate: frames per second (Hz).

        Returns:
            Latents in float32; codes and bandwidth of the codebooks used for this batch. Metrics
            per codebook, [num_codebooks]: 'usage', 'perplexity', 'dead' and 'revived' (see
            `codebook_stats`). Their means: 'codebook_usage', in 0..1, 'codebook_perplexity', in
            1..bins, 'dead_codes' and 'revived_codes', in 0..1; and the lowest usage of a codebook,
            'codebook_usage_min'. In eval mode 'revived' is 0, so that its mean over updates is the
            fraction that one update replaces.

        Raises:
            ValueError: latents of the wrong shape or type.
        """
        self._check_batch(latents)
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.to(self.codebooks.embed.dtype)
            vectors = self._to_vectors(latents)
            if self.training:
                self.codebooks.initialize(vectors)
                found = self.codebooks.learn(vectors, self.num_codebooks, used=self._draw_active())
            elif self.codebooks.training:  # frozen, see `DrawCounter`
                found = self.codebooks.encode(vectors, self._draw_active())
                self.codebooks.advance()
            else:
                found = self.codebooks.encode(vectors, self.num_codebooks)
            carrier = latents - latents.detach()  # zeros that carry the gradient
            # Gradient of the commitment loss at the latents.
            pull = self._to_latents(found.remainders, len(latents)) * (
                2 / (len(found.errors) * latents.numel())
            )
            bandwidth = len(found.codes) * math.log2(self.cardinality) * frame_rate / 1000
            quantized = self._to_latents(found.quantized, len(latents))
            return QuantizedResult(
                latents=pass_gradient(quantized, latents, self.gradient),
                codes=self._to_codes(found.codes, len(latents)),
                bandwidth=torch.full((), bandwidth, device=latents.device),
                losses={'commitment': found.errors.mean() + (pull * carrier).sum()},
                metrics=self._metrics(),
            )

    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the codes, int64 [B, num_codebooks, T], of latents float [B, D, T].

        Raises:
            ValueError: latents of the wrong shape or type.
        """
        self._check_latents(latents)
        with torch.autocast(latents.device.type, enabled=False):
            vectors = self._to_vectors(latents.to(self.codebooks.embed.dtype))
            return self._to_codes(self.codebooks.codes(vectors, self.num_codebooks), len(latents))

    def decode(self, codes: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Return the latents, float [B, D, T], of codes [B, K, T] of the first K codebooks.

        See `check_codes` for the accepted types.

        Raises:
            ValueError: not integers, wrong shape or device, too many codebooks, or a code outside
                0..bins-1.
        """
        codes = check_codes(
            codes, self.total_codebooks, self.cardinality, self.codebooks.embed.device
        )
        return self._to_latents(self.codebooks.decode(codes.transpose(0, 1).flatten(1)), len(codes))

    @property
    def entry_dimension(self) -> int | None:
        """Channels of an entry."""
        return self.dimension

    def traced_encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Do the same as `encode`; see `BaseQuantizer`."""
        residual, codes = latents, []
        for entries in self.codebooks.embed[: self.num_codebooks]:
            # |x - e|² - |x|², as in `kmeans.nearest`; a convolution, since F.linear would check
            # whether batch and time can be merged, which would specialize the program
            distances = F.conv1d(residual, -2 * entries[:, :, None], entries.square().sum(-1))
            indices = distances.argmin(1)
            residual = residual - F.embedding(indices, entries).transpose(1, 2).contiguous()
            codes.append(indices)
        return torch.stack(codes, dim=1)

    def traced_decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Do the same as `decode`; see `BaseQuantizer`."""
        embed = self.codebooks.embed
        # all codebooks in one table: their number may differ between calls
        offsets = torch.arange(len(embed), device=codes.device)[None, :, None] * embed.shape[1]
        rows = codes + offsets[:, : codes.shape[1]]
        return F.embedding(rows, embed.flatten(0, 1)).sum(1).transpose(1, 2).contiguous()

    def rounding_ties(
        self, latents: torch.Tensor, codes: torch.Tensor, found: torch.Tensor
    ) -> float:
        """Compare different codes of the same latents; see `BaseQuantizer`.

        If a latent is off by d, the difference of its squared distances to entries a and b changes
        by 2 d·(a - b), at most 2 |d| |a - b|. If a and b nearly coincide, the rounding of the
        distances themselves is larger. Levels after the first difference quantize another residual,
        and are ignored.
        """
        embed = self.codebooks.embed
        books = embed.double()
        largest = latents.abs().max().item()
        if not math.isfinite(largest):  # `max` would ignore NaN below
            return math.inf
        widest = 0.0
        for item, frame in (found != codes).any(dim=1).nonzero().tolist():
            ours, theirs = codes[item, :, frame], found[item, :, frame]
            if int(theirs.min()) < 0 or int(theirs.max()) >= embed.shape[1]:
                return float('inf')
            level = int((ours != theirs).nonzero()[0])
            residual = latents[item, :, frame].double() - sum(
                books[above, ours[above]] for above in range(level)
            )
            first, second = books[level, ours[level]], books[level, theirs[level]]
            gap = (residual - first).square().sum() - (residual - second).square().sum()
            rounding = 2 * LATENT_ROUNDING * largest * (first - second).norm()
            rounding += DISTANCE_ROUNDING * max(
                vector.square().sum() for vector in (residual, first, second)
            )
            widest = max(widest, (gap.abs() / rounding).item())
        return widest

    def codebook_stats(self) -> dict[str, torch.Tensor]:
        """Return statistics of each codebook, [total_codebooks], on the device.

        Returns:
            'usage': fraction of the entries that took at least a tenth of the average number of
            vectors per entry; 'perplexity': of the entries' fractions of the vectors; both over
            about the last ten training batches. 'dead': fraction of the entries below the threshold
            (a tenth of the average if `threshold_ema_dead_code` is 0) at the latest update of the
            codebook; 'revived': fraction replaced in that update.
        """
        return self.codebooks.stats()

    def adapted_state(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the state of a quantizer with another number of codebooks, adapted to this one.

        Codebooks that it lacks are new: with `kmeans_init`, the first training batch initializes
        them on the residual of the others. Those that it has more are cut.
        """
        adapted = {}
        for name, own in self.state_dict().items():
            value = state.get(name, own)
            if own.dim() and value.shape[1:] == own.shape[1:]:
                value = torch.cat([value[: len(own)], own[len(value) :].to(value)])
            adapted[name] = value
        return adapted

    def settle_statistics(self) -> None:
        """Adapt the statistics to the entries; see `Codebooks.settle_statistics`."""
        self.codebooks.settle_statistics()

    def drop_statistics(self) -> None:
        """Keep only what encoding and decoding need; see `BaseQuantizer`."""
        self.codebooks.drop_statistics()

    def _draw_active(self) -> int:
        """Return the number of codebooks for this batch, the same on every worker."""
        if not self.q_dropout:
            return self.num_codebooks
        generator = distrib.shared_generator(self.seed, _DRAW_DROPOUT, self.codebooks.count())
        return int(torch.randint(1, self.num_codebooks + 1, (), generator=generator))

    def _metrics(self) -> dict[str, torch.Tensor]:
        stats = {
            name: values[: self.num_codebooks] for name, values in self.codebooks.stats().items()
        }
        if not stats:
            return {}
        if not self.training:
            stats['revived'].zero_()  # reported in the update that replaced them
        return with_means(stats)

    def _to_vectors(self, latents: torch.Tensor) -> torch.Tensor:
        """Map [B, D, T] to [B * T, D], without gradient."""
        return latents.detach().transpose(1, 2).reshape(-1, self.dimension)

    def _to_latents(self, vectors: torch.Tensor, batch: int) -> torch.Tensor:
        """Map [B * T, D] to [B, D, T]."""
        return vectors.view(batch, -1, self.dimension).transpose(1, 2)

    def _to_codes(self, codes: torch.Tensor, batch: int) -> torch.Tensor:
        """Map [K, B * T] to [B, K, T]."""
        return codes.view(len(codes), batch, -1).transpose(0, 1).contiguous()


def with_means(stats: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add the means to statistics per codebook [K], see `ResidualVectorQuantizer.forward`."""
    if not stats:
        return {}
    return {
        **stats,
        'codebook_usage': stats['usage'].mean(),
        'codebook_usage_min': stats['usage'].min(),
        'codebook_perplexity': stats['perplexity'].mean(),
        'dead_codes': stats['dead'].mean(),
        'revived_codes': stats['revived'].mean(),
    }
