"""Training updates of the quantizer, against an implementation with one-hot codes."""

import argparse
from typing import Any

import torch
import torch.nn.functional as F

from audiocodec.quantization import ResidualVectorQuantizer
from benchmarks.common import in_turn, peak_bytes, ratio, summary

HELP = 'training updates of the quantizer, and of an implementation with one-hot codes'
DEFAULTS = {'steps': 7, 'warmup': 2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sizes of quantizer and batch."""
    parser.add_argument('--levels', type=int, default=32, help='codebooks')
    parser.add_argument('--bins', type=int, default=1024, help='entries of each')
    parser.add_argument('--dimension', type=int, default=128, help='channels of the latents')
    parser.add_argument('--batch', type=int, default=64, help='items')
    parser.add_argument('--frames', type=int, default=75, help='frames of an item')
    parser.add_argument(
        '--plain', type=int, default=1, choices=(0, 1), help='0: without the one-hot implementation'
    )


class OneHotQuantizer:
    """Residual EMA codebooks as usually implemented: one-hot codes, full distance matrices."""

    def __init__(
        self, embed: torch.Tensor, decay: float = 0.99, epsilon: float = 1e-5, dead: float = 2.0
    ) -> None:
        self.embed = embed.clone()
        self.average = 10 * embed
        self.sizes = torch.full(embed.shape[:2], 10.0, device=embed.device)
        self.decay = decay
        self.epsilon = epsilon
        self.dead = dead

    def update(self, latents: torch.Tensor) -> torch.Tensor:
        """Quantize a batch [B, D, T] and update the codebooks; return the commitment loss."""
        residual, losses = latents, []
        for embed, average, sizes in zip(self.embed, self.average, self.sizes):
            flat = residual.detach().transpose(1, 2).reshape(-1, latents.shape[1])
            distances = (
                flat.square().sum(1, keepdim=True) - 2 * flat @ embed.t() + embed.square().sum(1)
            )
            codes = (-distances).max(dim=-1).indices
            one_hot = F.one_hot(codes, len(embed)).to(flat.dtype)
            entries = (
                F.embedding(codes, embed).view(len(latents), -1, latents.shape[1]).transpose(1, 2)
            )
            expired = sizes < self.dead
            if bool(expired.any()):
                drawn = flat[torch.randint(0, len(flat), (len(embed),), device=flat.device)]
                embed.copy_(torch.where(expired[:, None], drawn, embed))
            sizes.mul_(self.decay).add_(one_hot.sum(0), alpha=1 - self.decay)
            average.mul_(self.decay).add_((flat.t() @ one_hot).t(), alpha=1 - self.decay)
            smoothed = (
                (sizes + self.epsilon) / (sizes.sum() + len(embed) * self.epsilon) * sizes.sum()
            )
            embed.copy_(average / smoothed[:, None])
            losses.append(F.mse_loss(entries, residual))
            residual = residual - entries
        return torch.stack(losses).mean()


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time updates, forward and backward, alternating with the one-hot implementation."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    latents = torch.randn(
        args.batch, args.dimension, args.frames, device=args.device, requires_grad=True
    )
    quantizer = ResidualVectorQuantizer(
        args.dimension, args.levels, bins=args.bins, kmeans_init=False
    )
    quantizer = quantizer.to(args.device).train()
    plain = OneHotQuantizer(quantizer.codebooks.embed)
    functions = {'total': lambda: quantizer(latents, 75.0).losses['commitment'].backward()}
    if args.plain:
        functions['one_hot'] = lambda: plain.update(latents).backward()
    times = in_turn(functions, args.steps, args.warmup, args.device)
    ratios = {'one_hot': ratio(times['one_hot'], times['total'])} if args.plain else {}
    return {**summary(times), 'peak_bytes': peak_bytes(args.device), 'ratio': ratios}
