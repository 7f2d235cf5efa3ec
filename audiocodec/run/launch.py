"""Launchers: the place of a worker, process groups, CPU threads, and a site's Slurm options."""

import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import dora
import torch
import yaml
from dora.distrib import get_distrib_spec, set_distrib_env
from torch import distributed

from audiocodec.utils import config, cpus, distrib
from audiocodec.utils.config import ConfigError

_OPTION = 'AUDIOCODEC_SLURM_'  # and an option's name, in capitals
_KINDS = {
    str: 'a text',
    int: 'an integer',
    float: 'a number',
    bool: 'true or false',
    list: 'a list',
}


class Place(NamedTuple):
    """Place of a worker among the workers of a run.

    Attributes:
        rank: number among all workers, from 0.
        world_size: number of workers.
        local_rank: number among the workers of its machine, from 0.
        local_world_size: number of workers on its machine.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


def find_place() -> Place:
    """Read this worker's place from the environment, without using any device.

    torchrun and `dora run -d` set RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE. Otherwise this
    is a Slurm task (`dora grid`, `dora launch`) or a single worker.
    """
    spec = get_distrib_spec()
    local_world_size = -(-spec.world_size // spec.num_nodes)
    if spec.source == 'env':
        local_world_size = int(os.environ.get('LOCAL_WORLD_SIZE', spec.world_size))
    return Place(spec.rank, spec.world_size, spec.local_rank, local_world_size)


def join_workers(place: Place, device: torch.device, timeout: float) -> None:
    """Start the process group of a run with several workers.

    Args:
        place: place of this worker.
        device: its device; selects NCCL for CUDA, else Gloo.
        timeout: seconds after which collectives that wait for a worker fail.
    """
    if place.world_size == 1 or distributed.is_initialized():
        return
    # Dora sets the other variables; with this one, `find_place` still returns the same afterwards
    os.environ.setdefault('LOCAL_WORLD_SIZE', str(place.local_world_size))
    xp = dora.get_xp()
    method = xp.rendezvous_file.absolute().as_uri() if xp.dora.use_rendezvous else 'env://'
    if not xp.dora.use_rendezvous:
        set_distrib_env()
    _start_group(place, device, timeout, method)
    if xp.dora.use_rendezvous:
        distrib.barrier()
        if place.rank == 0:  # the next start of this experiment must not find it
            xp.rendezvous_file.unlink()


def join_torchrun(timeout: float) -> Place:
    """Start a process group on the CPU if torchrun has started this process.

    Args:
        timeout: seconds after which collectives that wait for a worker fail.
    """
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        return Place(0, 1, 0, 1)
    place = find_place()
    if place.world_size > 1:
        _start_group(place, torch.device('cpu'), timeout, 'env://')
    return place


def _start_group(place: Place, device: torch.device, timeout: float, method: str) -> None:
    is_cuda = device.type == 'cuda'
    distributed.init_process_group(
        'nccl' if is_cuda else 'gloo',
        init_method=method,
        rank=place.rank,
        world_size=place.world_size,
        timeout=timedelta(seconds=timeout),
        device_id=device if is_cuda else None,
    )


def leave_workers() -> None:
    """End the process group, if there is one. Every worker must call it, after its last collective.

    Otherwise, its threads may still run when the interpreter ends, which then sometimes aborts: a
    launcher would report a failure, and stop the other workers.
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def share_of_threads(place: Place) -> int:
    """Return the number of CPU threads for this worker. Collective: every worker must call it.

    Workers on the same cores divide them; workers bound to their own cores by the launcher use all
    of these. A CPU quota is divided among the workers of a machine. OMP_NUM_THREADS is an upper
    bound.
    """
    cores = cpus.affinity()
    own = (socket.gethostname(), cores)
    sharing = distrib.all_gather_object(own).count(own)
    granted = cpus.quota() / place.local_world_size
    return max(1, int(min(len(cores) / sharing, granted, torch.get_num_threads())))


def slurm_of_site(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Slurm options of this cluster or user, which no recipe should contain.

    From the YAML file AUDIOCODEC_SLURM, by default `~/.config/audiocodec/slurm.yaml`, and from the
    environment: AUDIOCODEC_SLURM_PARTITION=gpu sets `partition`.

    Args:
        known: the options with their defaults, whose types are checked.

    Raises:
        ConfigError: an unreadable file, an unknown option, or a value of another type.
    """
    home = Path(os.environ.get('XDG_CONFIG_HOME') or '~/.config').expanduser()
    named = os.environ.get('AUDIOCODEC_SLURM')
    path = Path(named).expanduser() if named else home / 'audiocodec' / 'slurm.yaml'
    found: dict[str, tuple[str, Any]] = {}
    if named or path.is_file():
        found = {key: (f'{path}: {key}', value) for key, value in _read_options(path).items()}
    for variable, text in os.environ.items():
        if variable.startswith(_OPTION):
            key = variable.removeprefix(_OPTION).lower()
            found[key] = f'{variable}={text}', _read_value(variable, text)
    for key, (where, value) in found.items():
        if key not in known:
            hint = config.nearest(key, known)
            raise ConfigError(f'{where}: no such option of Slurm{hint} (known: {", ".join(known)})')
        kind = type(known[key])
        fits = type(value) is kind or (kind is float and type(value) is int)
        if None not in (known[key], value) and not fits:
            raise ConfigError(f'{where}: expected {_KINDS[kind]}, got {value!r}')
    return {key: value for key, (_, value) in found.items()}


def _read_options(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        text = ' '.join(str(error).split())
        raise ConfigError(f'{path}: the options of Slurm cannot be read: {text}') from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f'{path}: expected lines such as `partition: gpu`, got {found!r}')
    return {str(key): value for key, value in found.items()}


def _read_value(variable: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f'{variable}={text}: is not a YAML value') from error
