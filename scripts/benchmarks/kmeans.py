"""Initialising codebooks by k-means: time, and memory above the resting state."""

import argparse
import time
from typing import Any

import torch

from audiocodec.quantization.codebook import Codebooks
from audiocodec.quantization.kmeans import spread_indices
from benchmarks.measuring import in_turn, medians, peak_bytes, ratio, resting_bytes, spreads

HELP = 'k-means of the codebooks, and of an implementation with an n x c x d temporary'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is initialised from how much."""
    parser.add_argument('--levels', type=int, default=32, help='codebooks')
    parser.add_argument('--bins', type=int, default=1024, help='entries of each')
    parser.add_argument('--dimension', type=int, default=128, help='channels of the latents')
    parser.add_argument('--vectors', type=int, default=64 * 75, help='latent frames')
    parser.add_argument('--iterations', type=int, default=10, help='of k-means, at most')
    parser.add_argument('--plain', type=int, default=1, metavar='N', help='iterations to time of the n x c x d one')
    parser.add_argument('--steps', type=int, default=3)
    parser.add_argument('--warmup', type=int, default=0)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--device', default='cpu')


def plain_iteration(samples: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """New means, by the differences of every sample and mean, [n, c, d], and a one-hot-like scatter."""
    nearest = (samples[:, None] - means[None]).square().sum(-1).argmin(-1)
    counts = torch.bincount(nearest, minlength=len(means)).clamp(min=1)
    sums = torch.zeros_like(means).scatter_add_(0, nearest[:, None].expand_as(samples), samples)
    return sums / counts[:, None]


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time the initialisation of all levels; the plain one is timed for a few iterations and scaled."""
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(args.vectors, args.dimension, generator=generator).to(args.device)

    def initialise() -> None:
        books = Codebooks(args.levels, args.bins, args.dimension, kmeans_iters=args.iterations).to(args.device)
        books.initialise(vectors)

    if args.device.startswith('cuda'):
        torch.cuda.reset_peak_memory_stats()
    resting = resting_bytes(args.device)
    times = in_turn({'total': initialise}, args.steps, args.warmup, args.device)
    result: dict[str, Any] = {'bytes_above_rest': peak_bytes(args.device) - resting}
    if args.plain:
        means = vectors[spread_indices(len(vectors), (args.bins,), generator).to(args.device)]
        plain_iteration(vectors[:16], means)
        begin = time.perf_counter()
        for _ in range(args.plain):
            means = plain_iteration(vectors, means)
        means.sum().item()  # waits for the device
        each = (time.perf_counter() - begin) * 1000 / args.plain
        # each level runs all iterations and one more search, for the residuals
        times['plain_scaled'] = [each * args.levels * (args.iterations + 1)] * args.steps
        result['plain_over_ours'] = ratio(times['plain_scaled'], times['total'])
    return {'ms': medians(times), 'spread': spreads(times), 'peak_bytes': peak_bytes(args.device), **result}
