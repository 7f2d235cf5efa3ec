"""Rank and world size of a worker as its launcher gives them; process group; CPU threads."""

import os
import socket
from datetime import timedelta
from typing import NamedTuple

import dora
import torch
from dora.distrib import get_distrib_spec, set_distrib_env
from torch import distributed

from audiocodec.utils import cpus, distrib


class Place(NamedTuple):
    """A worker's place among the workers of a run.

    Attributes:
        rank: its number among all workers, from 0.
        world_size: number of workers.
        local_rank: its number among the workers of its machine, from 0.
        local_world_size: number of workers on its machine.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


def find_place() -> Place:
    """Reads this worker's place from the environment; touches no device.

    torchrun, and `dora run -d`, say it in RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE.
    Without those it is a task of Slurm, under `dora grid` and `dora launch`, or a single worker.
    """
    spec = get_distrib_spec()
    local_world_size = -(-spec.world_size // spec.num_nodes)
    if spec.source == 'env':
        local_world_size = int(os.environ.get('LOCAL_WORLD_SIZE', spec.world_size))
    return Place(spec.rank, spec.world_size, spec.local_rank, local_world_size)


def join_workers(place: Place, device: torch.device, timeout: float) -> None:
    """Starts the process group of a run with several workers.

    Args:
        place: this worker's.
        device: where it computes: NCCL for CUDA, else gloo.
        timeout: seconds after which a collective fails in those that wait for a worker.
    """
    if place.world_size == 1 or distributed.is_initialized():
        return
    # Dora sets the others; with this one too, `find_place` gives the same answer afterwards.
    os.environ.setdefault('LOCAL_WORLD_SIZE', str(place.local_world_size))
    xp = dora.get_xp()
    method = xp.rendezvous_file.absolute().as_uri() if xp.dora.use_rendezvous else 'env://'
    if not xp.dora.use_rendezvous:
        set_distrib_env()
    is_cuda = device.type == 'cuda'
    distributed.init_process_group(
        'nccl' if is_cuda else 'gloo',
        init_method=method,
        rank=place.rank,
        world_size=place.world_size,
        timeout=timedelta(seconds=timeout),
        device_id=device if is_cuda else None,
    )
    if xp.dora.use_rendezvous:
        distrib.barrier()
        if place.rank == 0:  # the next start of this experiment must not find it
            xp.rendezvous_file.unlink()


def share_of_threads(place: Place) -> int:
    """Number of CPU threads for this worker; every worker must call it.

    Workers that may run on the same cores divide them; workers that the launcher has bound to cores
    of their own use all of those. A CPU quota is divided among the workers of a machine.
    OMP_NUM_THREADS is an upper bound.
    """
    cores = cpus.affinity()
    own = (socket.gethostname(), cores)
    sharing = distrib.all_gather_object(own).count(own)
    granted = cpus.quota() / place.local_world_size
    return max(1, int(min(len(cores) / sharing, granted, torch.get_num_threads())))
