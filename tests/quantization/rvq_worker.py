"""Train a small quantizer as one of several workers.

Usage: rvq_worker.py RANK WORLD_SIZE RENDEZVOUS OUTPUT
"""

import sys

import torch
from torch import distributed

from audiocodec.quantization import ResidualVectorQuantizer

UPDATES = 20
GLOBAL_BATCH = 4
FRAMES = 20
DIMENSION = 6


def train(rank: int = 0, world_size: int = 1) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    quantizer = ResidualVectorQuantizer(
        DIMENSION,
        n_q=3,
        q_dropout=True,
        bins=16,
        decay=0.7,
        kmeans_iters=5,
        threshold_ema_dead_code=8,
        seed=3,
    )
    quantizer.train()
    rows = slice(rank * GLOBAL_BATCH // world_size, (rank + 1) * GLOBAL_BATCH // world_size)
    generator = torch.Generator().manual_seed(7)
    revived = torch.zeros(3)
    active = []
    losses = []
    for update in range(UPDATES):
        latents = torch.randn(GLOBAL_BATCH, DIMENSION, FRAMES, generator=generator) + 0.2 * update
        result = quantizer(latents[rows].clone(), frame_rate=75.0)
        revived += quantizer.codebook_stats()['revived']
        active.append(result.codes.shape[1])
        losses.append(result.losses['commitment'])
    state = {name: value.clone() for name, value in quantizer.state_dict().items()}
    loss = torch.stack(losses)
    if world_size > 1:
        distributed.all_reduce(loss)
    return {**state, 'revived': revived, 'active': torch.tensor(active), 'loss': loss / world_size}


if __name__ == '__main__':
    rank, world_size = int(sys.argv[1]), int(sys.argv[2])
    distributed.init_process_group(
        'gloo', f'file://{sys.argv[3]}', rank=rank, world_size=world_size
    )
    torch.save(train(rank, world_size), sys.argv[4])
    distributed.destroy_process_group()
