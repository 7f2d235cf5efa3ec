"""A record of each start of an experiment: code, command, environment, hardware, and how it ended.

Files `runs/N.json` and, with uncommitted changes of the code, `runs/N.diff`, in the experiment's
folder.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from omegaconf import DictConfig, OmegaConf

from audiocodec import __version__
from audiocodec.run.device import gpu_text
from audiocodec.utils import cpus, distrib, paths
from audiocodec.utils.failures import Failures
from audiocodec.utils.files import write_bytes

FOLDER = 'runs'
FINISHED = 'finished'
# Packages whose versions a record or a bug report should include.
PACKAGES = (
    'torch',
    'numpy',
    'hydra-core',
    'omegaconf',
    'dora-search',
    'flashy',
    'soundfile',
    'julius',
    'transformers',
    'onnxruntime',
)
# Variables that change what a run computes or where it runs; others may hold passwords.
_VARIABLES = re.compile(
    r'(AUDIOCODEC|CUDA|NCCL|GLOO|OMP|MKL|TORCH|PYTORCH|NVIDIA|SLURM|SUBMITIT)_\w+|'
    'RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT|CONDA_DEFAULT_ENV|'
    'VIRTUAL_ENV'
)
_SECRET = re.compile('KEY|TOKEN|SECRET|PASSW|CREDENTIAL')
_LONGEST_DIFF = 1_000_000  # characters
_GIT_TIMEOUT = 20.0  # seconds


class Run(Protocol):
    """What is recorded of a solver: its device, and the number of updates so far."""

    @property
    def device(self) -> torch.device:
        """Device of this worker."""

    @property
    def updates(self) -> int:
        """Updates so far, those before a resume included."""


@contextmanager
def recorded(folder: Path, cfg: DictConfig, run: Run) -> Iterator[None]:
    """Record the run of this block on worker 0. A record that cannot be written is a warning.

    Args:
        folder: folder of the experiment.
        cfg: its configuration.
        run: the solver.
    """
    record = None
    failures = Failures()
    if distrib.is_rank_zero():
        with failures.caught('the record of this run'):
            record = _Record(folder, cfg, run)
    outcome = FINISHED
    try:
        yield
    except BaseException as error:
        outcome = f'{type(error).__name__}: {error}'
        raise
    finally:
        if record is not None:
            with failures.caught('the record of this run'):
                record.end(outcome, run.updates)


class _Record:
    """The record of the current start, whose file exists from the beginning; see `recorded`."""

    def __init__(self, folder: Path, cfg: DictConfig, run: Run) -> None:
        where = folder / FOLDER
        where.mkdir(exist_ok=True)
        self._path = where / f'{_last(where) + 1}.json'
        self._since = time.monotonic()
        code, diff = _code()
        if diff:
            self._path.with_suffix('.diff').write_text(diff, errors='surrogateescape')
        self._facts: dict[str, Any] = {
            'started': time.strftime('%Y-%m-%d %H:%M:%S %z'),
            'host': socket.gethostname(),
            'command': shlex.join(sys.argv),
            'working_directory': os.getcwd(),
            'code': code,
            'config': digest(cfg),
            'workers': distrib.world_size(),
            'hardware': _hardware(run.device),
            'python': f'{platform.python_version()} on {platform.platform()}',
            'packages': versions(),
            'environment': {
                name: value
                for name, value in sorted(os.environ.items())
                if _VARIABLES.fullmatch(name) and not _SECRET.search(name)
            },
            'outcome': None,
        }
        self._write()

    def end(self, outcome: str, updates: int) -> None:
        """Record how the run ended.

        Args:
            outcome: `FINISHED`, or what stopped it.
            updates: number of updates so far.
        """
        seconds = round(time.monotonic() - self._since, 1)
        self._facts.update(outcome=outcome, seconds=seconds, updates=updates)
        self._write()

    def _write(self) -> None:
        write_bytes(self._path, json.dumps(self._facts, indent=1).encode())


def digest(cfg: DictConfig) -> str:
    """Return a digest of a configuration, keys outside of the signature included."""
    return hashlib.sha256(OmegaConf.to_yaml(cfg, resolve=True).encode()).hexdigest()[:16]


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the records of an experiment, the oldest first; unreadable ones are left out."""
    found = []
    for number in sorted(_numbers(folder / FOLDER)):
        with suppress(OSError, ValueError):
            found.append(json.loads((folder / FOLDER / f'{number}.json').read_text()))
    return found


def is_finished(folder: Path, cfg: DictConfig) -> bool:
    """True if a run of an experiment finished with the same configuration."""
    own = digest(cfg)
    return any(one['outcome'] == FINISHED and one['config'] == own for one in read(folder))


def _numbers(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob('*.json') if path.stem.isdigit()]


def _last(folder: Path) -> int:
    return max(_numbers(folder), default=0)


def _code() -> tuple[dict[str, Any], str]:
    """Return version and commits of the code, and the uncommitted changes as one text."""
    found: dict[str, Any] = {'audiocodec': __version__}
    diffs = []
    tops = {_git(folder, 'rev-parse', '--show-toplevel').strip() for folder in _folders()}
    for top in sorted(tops - {''}):
        changed = _git(Path(top), 'status', '--porcelain').splitlines()
        found[top] = {'commit': _git(Path(top), 'rev-parse', 'HEAD').strip(), 'changed': changed}
        diffs.append(_git(Path(top), 'diff', 'HEAD'))
    text = ''.join(diffs)
    if len(text) > _LONGEST_DIFF:
        text = f'{text[:_LONGEST_DIFF]}\n(cut after {_LONGEST_DIFF} characters of {len(text)})\n'
    return found, text


def _folders() -> list[Path]:
    """Folders whose code a run may use: this package, and that of the user."""
    return [Path.cwd()] if paths.INSTALLED else [paths.ROOT, Path.cwd()]


def _git(folder: Path, *arguments: str) -> str:
    """Return the output of git; empty outside of a repository, or without git."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ['git', '-C', str(folder), *arguments],
            capture_output=True,
            text=True,
            errors='surrogateescape',
            timeout=_GIT_TIMEOUT,
            check=True,
        )
        return done.stdout
    return ''


def _hardware(device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {
        'device': str(device),
        'cores': cpus.usable_cores(),
        'cpu': torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == 'cuda':
        found['gpu'] = gpu_text(device)
        found['cudnn'] = torch.backends.cudnn.version()
    return found


def versions() -> dict[str, str]:
    """Return the versions of those of `PACKAGES` that are installed."""
    found = {}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    found['torch'] = torch.__version__  # with its build, such as +cpu
    return found
