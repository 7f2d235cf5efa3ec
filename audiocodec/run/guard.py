"""Checks after each update: non-finite values and stop requests, without device synchronization."""

import json
import logging
import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import soundfile
import torch

from audiocodec.utils import distrib
from audiocodec.utils.errors import RunError
from audiocodec.utils.files import write_bytes
from audiocodec.utils.paths import safe_stem

logger = logging.getLogger('audiocodec')

# updates after which flags are read from a GPU: by then they are ready, and the GPU stays busy
_LAG = 2
_AUDIO = 16  # items of a saved batch that are written as audio


class _Update(NamedTuple):
    """Update whose flags have not been read yet."""

    number: int
    flags: torch.Tensor  # [skipped, stop], on the host once `ready`
    ready: Any  # a CUDA event, or None
    metrics: Mapping[str, torch.Tensor]
    wav: torch.Tensor
    infos: Sequence[Any]


class UpdateGuard:
    """Monitors the updates of a run; every worker decides the same at the same update.

    An update with a non-finite loss or gradient is skipped (`optim.step.step_if`) and its batch is
    saved; too many in a row end the run. A batch that cannot be saved is a warning.

    Args:
        folder: folder for batches: `update_N.rank_R.json` and `update_N.rank_R/*.wav`.
        device: device of the flags.
        most: largest number of consecutive skipped updates; one more ends the run.
        seed: seed of the run, saved with each batch.

    Attributes:
        in_row: number of consecutive skipped updates up to now.
    """

    def __init__(self, folder: Path, device: torch.device, most: int, seed: int) -> None:
        self.folder = folder
        self.device = device
        self.most = most
        self.seed = seed
        self.in_row = 0
        self._pending: deque[_Update] = deque()

    def follow(
        self,
        number: int,
        metrics: Mapping[str, torch.Tensor],
        skipped: torch.Tensor,
        stop: bool,
        wav: torch.Tensor,
        infos: Sequence[Any],
    ) -> bool:
        """Register an update.

        Args:
            number: number of the update.
            metrics: 0-d tensors; non-finite ones are named in the warning.
            skipped: 0-d, boolean, the same on every worker.
            stop: True if this worker was asked to stop.
            wav: float [B, C, T], the batch.
            infos: origin of its items: dataclasses with `meta.path` and `sample_rate`.

        Returns:
            True if any worker was asked to stop, at this update or (on a GPU) shortly before.

        Raises:
            RunError: more than `most` consecutive updates were skipped.
        """
        flags = torch.stack([skipped.float(), torch.full_like(skipped, stop, dtype=torch.float32)])
        distrib.all_reduce_sum_([flags])
        ready = None
        if flags.device.type == 'cuda':
            flags = flags.to('cpu', non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        self._pending.append(_Update(number, flags, ready, metrics, wav, infos))
        return self._read(_LAG if ready is not None else 0)

    def flush(self) -> bool:
        """Read the flags of all pending updates; see `follow`."""
        return self._read(0)

    def _read(self, lag: int) -> bool:
        stop = False
        while len(self._pending) > lag:
            update = self._pending.popleft()
            if update.ready is not None:
                update.ready.synchronize()
            skipped, asked = update.flags.tolist()
            stop |= asked > 0
            self.in_row = self.in_row + 1 if skipped else 0
            if skipped:
                self._report(update)
        return stop

    def _report(self, update: _Update) -> None:
        values = {name: value.float().mean().item() for name, value in update.metrics.items()}
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        try:
            saved = f'is described in {self._save(update, values)}'
        except Exception as error:  # saving is not essential: the update was skipped
            saved = f'could not be saved ({type(error).__name__}: {error})'
        logger.warning(
            'update %d was skipped: %s not finite; its batch %s',
            update.number,
            ', '.join(wrong) or 'a gradient of another worker',
            saved,
        )
        if self.in_row > self.most:
            raise RunError(
                f'{self.in_row} updates in a row had non-finite losses or gradients '
                f'({", ".join(wrong)}), more than optim.max_skipped={self.most}: the model cannot '
                f'recover. Their batches are in {self.folder}. Check the audio there, lower '
                'optim.lr, or set optim.max_norm; the last checkpoint is intact'
            )

    def _save(self, update: _Update, values: Mapping[str, float]) -> Path:
        """Save a batch: a description, and its first items as float32 audio, exactly as used."""
        name = f'update_{update.number}.rank_{distrib.rank()}'
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        items = []
        for index, (wav, info) in enumerate(zip(update.wav.cpu(), update.infos)):
            item = asdict(info)
            if index < _AUDIO:
                item['audio'] = f'{name}/{index:03d}_{safe_stem(info.meta.path)}.wav'
                soundfile.write(
                    os.fsencode(self.folder / item['audio']),
                    wav.T.numpy(),
                    info.sample_rate,
                    subtype='FLOAT',
                    format='WAV',
                )
            items.append(item)
        content = {
            'update': update.number,
            'seed': self.seed,
            'rank': distrib.rank(),
            'metrics': {
                key: value if math.isfinite(value) else str(value) for key, value in values.items()
            },
            'items': items,
        }
        path = self.folder / f'{name}.json'
        write_bytes(path, json.dumps(content, indent=1).encode())
        return path

    def state_dict(self) -> dict[str, int]:
        """Return the state that the next decision depends on."""
        return {'in_row': self.in_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore a `state_dict`."""
        self.in_row = state['in_row']
