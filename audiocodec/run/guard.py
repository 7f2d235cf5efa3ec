"""After an update: was it finite, does anybody want to stop? The device is asked without being
waited for.
"""

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

# updates after which a GPU's answer is read: it has long been there, and the GPU has work meanwhile
_LAG = 2
_AUDIO = 16  # items of a kept batch that are written as audio


class _Update(NamedTuple):
    """One update whose outcome is not known yet."""

    number: int
    flags: torch.Tensor  # [skipped, stop], on the host once `ready`
    ready: Any  # a CUDA event, or None
    metrics: Mapping[str, torch.Tensor]
    wav: torch.Tensor
    infos: Sequence[Any]


class UpdateGuard:
    """Follows the updates of a run; every worker comes to the same decisions at the same update.

    An update with a non-finite loss or gradient changes nothing (`optim.step.step_if`); its
    batch is kept, and too many of them in a row end the run. A batch that cannot be written is a
    warning.

    Args:
        folder: where batches are kept: `update_N.rank_R.json` and `update_N.rank_R/*.wav`.
        device: of the flags.
        most: updates in a row that may be skipped; one more ends the run.
        seed: of the run, written down with a batch.

    Attributes:
        in_row: updates skipped one after the other, up to now.
    """

    def __init__(self, folder: Path, device: torch.device, most: int, seed: int) -> None:
        self.folder, self.device, self.most, self.seed = folder, device, most, seed
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
        """Take note of an update.

        Args:
            number: of the update.
            metrics: 0-d tensors, of which those that are not finite are named.
            skipped: 0-d, boolean; the same on every worker.
            stop: whether this worker was asked to stop.
            wav: float [B, C, T], the batch.
            infos: where its items are from: dataclasses with `meta.path` and `sample_rate`.

        Returns:
            Whether any worker was asked to stop, at this update or (on a GPU) one shortly before.

        Raises:
            RunError: more than `most` updates in a row were skipped.
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
        """Read what is outstanding; see `follow`."""
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
            kept = f'is described in {self._keep(update, values)}'
        except Exception as error:  # an update that was left out is safe without it
            kept = f'could not be kept ({type(error).__name__}: {error})'
        logger.warning(
            'update %d was skipped: %s not finite; its batch %s',
            update.number,
            ', '.join(wrong) or 'a gradient of another worker',
            kept,
        )
        if self.in_row > self.most:
            raise RunError(
                f'{self.in_row} updates in a row had non-finite losses or gradients '
                f'({", ".join(wrong)}), '
                f'more than optim.max_skipped={self.most}: the model cannot recover. Their batches '
                'are in '
                f'{self.folder}. Look at the audio there, lower optim.lr, or set optim.max_norm; '
                'the last '
                'checkpoint is intact'
            )

    def _keep(self, update: _Update, values: Mapping[str, float]) -> Path:
        """Write down a batch: a description and its first items as audio, float32, exactly as they
        went in.
        """
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
        """What the next decision depends on."""
        return {'in_row': self.in_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore what `state_dict` gave."""
        self.in_row = state['in_row']
