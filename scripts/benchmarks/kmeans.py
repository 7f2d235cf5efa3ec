"""K-means initialization of codebooks: time, and memory above the resting state."""

import argparse
from typing import Any

import torch

from audiocodec.quantization.codebook import Codebooks
from audiocodec.quantization.kmeans import spread_indices
from benchmarks.common import in_turn, peak_bytes, ratio, resting_bytes, summary

HELP = 'k-means of the codebooks, and of an implementation with an n x c x d temporary'
DEFAULTS = {'steps': 3, 'warmup': 0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sizes of codebooks and data."""
    parser.add_argument('--levels', type=int, default=32, help='codebooks')
    parser.add_argument('--bins', type=int, default=1024, help='entries of each')
    parser.add_argument('--dimension', type=int, default=128, help='channels of the latents')
    parser.add_argument('--vectors', type=int, default=64 * 75, help='latent frames')
    parser.add_argument('--iterations', type=int, default=50, help='of k-means, at most')
    parser.add_argument(
        '--plain',
        type=int,
        default=1,
        metavar='N',
        help='timed iterations of the n x c x d implementation, scaled to all; 0: none',
    )


def plain_iteration(samples: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """Compute new means from all differences [n, c, d] of samples and means, as is usual."""
    nearest = (samples[:, None] - means[None]).square().sum(-1).argmin(-1)
    counts = torch.bincount(nearest, minlength=len(means)).clamp(min=1)
    sums = torch.zeros_like(means).scatter_add_(0, nearest[:, None].expand_as(samples), samples)
    return sums / counts[:, None]


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time the initialization of all levels; the plain one for a few iterations, then scaled.

    In the usual implementations, each level runs all iterations, and one more search to compute the
    residual for the next level.
    """
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(args.vectors, args.dimension, generator=generator).to(args.device)

    def initialize() -> None:
        books = Codebooks(args.levels, args.bins, args.dimension, kmeans_iters=args.iterations)
        books.to(args.device).initialize(vectors)

    if args.device.startswith('cuda'):
        torch.cuda.reset_peak_memory_stats()
    resting = resting_bytes(args.device)
    times = in_turn({'total': initialize}, args.steps, args.warmup, args.device)
    peak = peak_bytes(args.device)  # before the plain one, which takes gigabytes
    result = {'peak_bytes': peak, 'bytes_above_rest': max(0, peak - resting)}
    if not args.plain:
        return {**summary(times), **result}
    means = vectors[spread_indices(len(vectors), (args.bins,), generator).to(args.device)]
    iteration = {'plain': lambda: plain_iteration(vectors, means)}
    plain = in_turn(iteration, args.plain, 0, args.device)['plain']
    scaled = sum(plain) / args.plain * args.levels * (args.iterations + 1)
    times['plain_scaled'] = [scaled] * args.steps
    return {
        **summary(times),
        **result,
        'ratio': {'plain': ratio(times['plain_scaled'], times['total'])},
    }
