"""The device of a run, its memory, and the seeds of the global random generators."""

import random

import numpy as np
import torch

from audiocodec.run.launch import Place
from audiocodec.utils import distrib
from audiocodec.utils.config import ConfigError


def seed_everything(*numbers: int) -> None:
    """Seed the generators of PyTorch, NumPy and Python from numbers such as (seed, epoch, rank)."""
    seed = distrib.shared_generator(*numbers).initial_seed() % 2**32
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def resolve_device(name: str, place: Place) -> torch.device:
    """Return the device for this worker; makes a GPU the current one.

    Args:
        name: `auto` (CUDA if available), `cpu`, `cuda`, `cuda:N` or `mps` (the GPU of a Mac).
        place: place of this worker: each worker of a machine uses a GPU of its own.

    Raises:
        ConfigError: PyTorch does not know the name or has no such device, or there are not enough
            GPUs.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f'device={name}: expected auto, cpu, cuda, cuda:N or mps') from error
    if device.type == 'cuda':
        device = _own_gpu(device, place)
        torch.cuda.set_device(device)
    if device.type == 'mps':
        _check_mps(device, place)
    return device


def peak_memory(device: torch.device) -> float | None:
    """Return the peak memory allocated on a GPU so far, in GiB; None where it is not counted."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == 'cuda' else None


def gpu_text(device: torch.device | int) -> str:
    """Describe a GPU: name, memory, and the version of CUDA."""
    properties = torch.cuda.get_device_properties(device)
    memory = properties.total_memory / 2**30
    return f'{properties.name}, {memory:.0f} GiB, CUDA {torch.version.cuda}'


def _check_mps(device: torch.device, place: Place) -> None:
    if not torch.backends.mps.is_available():
        reason = (
            'this macOS or machine has none that it can use'
            if torch.backends.mps.is_built()
            else 'this build of it is not for Macs with one'
        )
        raise ConfigError(
            f'device={device}: PyTorch finds no Apple GPU, {reason}; use device=cpu or device=auto'
        )
    if place.world_size > 1:
        raise ConfigError(
            f'device={device} is one GPU, but there are {place.world_size} workers, which need one '
            'each; start one worker'
        )


def _own_gpu(device: torch.device, place: Place) -> torch.device:
    if not torch.cuda.is_available():
        raise ConfigError(
            f'device={device}: PyTorch finds no CUDA device; use device=cpu or device=auto'
        )
    visible = torch.cuda.device_count()
    if device.index is not None:
        if place.local_world_size > 1:
            raise ConfigError(
                f'device={device} is one GPU, but the {place.local_world_size} workers on this '
                'machine need one each; use device=cuda'
            )
        return device
    if visible == 1:  # the machine has one GPU, or the launcher shows each worker only its own
        return torch.device('cuda', 0)
    if place.local_rank >= visible:
        raise ConfigError(
            f'device=cuda: {place.local_world_size} workers run on this machine, but {visible} '
            'GPUs are visible; start one worker per GPU'
        )
    return torch.device('cuda', place.local_rank)
