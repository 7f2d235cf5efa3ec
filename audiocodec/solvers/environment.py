"""What a run finds around it: seeds, the device, the folder of an experiment."""

import os
import random
from pathlib import Path

import dora
import numpy as np
import torch

from audiocodec.utils import distrib, paths
from audiocodec.utils.config import ConfigError


def seed_everything(*numbers: int) -> None:
    """Seed the global generators of PyTorch, NumPy and Python from numbers such as (seed, epoch, rank)."""
    seed = distrib.shared_generator(*numbers).initial_seed() % 2**32
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def resolve_device(name: str) -> torch.device:
    """The device that `device=` names; `auto` is CUDA when there is one.

    Raises:
        ConfigError: for a name that PyTorch does not know, or CUDA where there is none.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f'device={name}: expected auto, cpu, cuda or cuda:N') from error
    if device.type == 'cuda':
        if not torch.cuda.is_available():
            raise ConfigError(f'device={name}: PyTorch finds no CUDA device here; use device=cpu or device=auto')
        if device.index is None:
            device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', 0)))
        torch.cuda.set_device(device)
    return device


def experiment_folder(sig: str) -> Path:
    """The folder of the experiment with signature `sig`: beside the running experiment, else where experiments live."""
    root = Path(dora.get_xp().dora.dir) if dora.is_xp() else paths.experiments_folder()
    return root / 'xps' / sig
