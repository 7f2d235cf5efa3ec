"""Train every quantizer, and the encoder before it, as one of several workers.

Usage: all_worker.py RANK WORLD_SIZE RENDEZVOUS OUTPUT
"""

import sys
from pathlib import Path

import torch
from torch import distributed

sys.path.insert(0, str(Path(__file__).parents[1] / 'support'))
from quantizers import ALL, make, train

from audiocodec.utils import distrib

UPDATES = 3
BATCH = 4


def train_all(rank: int = 0, world_size: int = 1) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    rows = slice(rank * BATCH // world_size, (rank + 1) * BATCH // world_size)
    found = {}
    for name in ALL:
        quantizer = make(name)
        results = train(quantizer, 0, UPDATES, rows, distrib.average_gradients)
        for key, value in quantizer.state_dict().items():
            found[f'{name}.{key}'] = value.clone()
        result, grad = results[-1]
        local = {**result.losses, 'codes': result.codes.shape[1]}
        for key, value in result.metrics.items():
            if key == 'sample_entropy':  # of the worker's own frames
                local[key] = value
            else:
                found[f'{name}.metrics.{key}'] = value
        for key, value in local.items():
            value = torch.as_tensor(value, dtype=torch.float32).detach().clone()
            distrib.all_reduce_mean_([value])
            found[f'{name}.mean.{key}'] = value
        # An update averages the gradients: each worker's are those of its part of the loss.
        found[f'{name}.grad'] = spread(grad / world_size, rows)
        found[f'{name}.latents'] = spread(result.latents.detach(), rows)
    return found


def spread(part: torch.Tensor, rows: slice) -> torch.Tensor:
    """Return the items of all workers."""
    whole = part.new_zeros(BATCH, *part.shape[1:])
    whole[rows] = part
    distrib.all_reduce_sum_([whole])
    return whole


if __name__ == '__main__':
    rank, world_size = int(sys.argv[1]), int(sys.argv[2])
    distributed.init_process_group(
        'gloo', f'file://{sys.argv[3]}', rank=rank, world_size=world_size
    )
    torch.save(train_all(rank, world_size), sys.argv[4])
    distributed.destroy_process_group()
