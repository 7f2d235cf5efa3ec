"""Runs of Weights & Biases, online or offline."""

import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from audiocodec.dsp.picture import audio_picture

logger = logging.getLogger('audiocodec')

# Seconds that Weights & Biases waits for a login on a terminal, and for the last uploads (in
# versions with such a limit); variables that are already set take precedence.
_WANDB_LIMITS = {'WANDB_LOGIN_TIMEOUT': '60', 'WANDB_FINISH_TIMEOUT': '600'}


class WeightsAndBiases:
    """Run of Weights & Biases, which continues after interruptions of an experiment.

    Its id is the signature and a random suffix, stored in the experiment's folder: a cleared folder
    starts a new run, and so does a run that was deleted on the server. Without a login or a
    connection, the run is stored offline in the folder, for `wandb sync`.

    Args:
        cfg: configuration of the run.
        folder: folder of the experiment.
        name: signature of the experiment.
    """

    def __init__(self, cfg: DictConfig, folder: Path, name: str) -> None:
        for variable, seconds in _WANDB_LIMITS.items():
            os.environ.setdefault(variable, seconds)
        import wandb  # reads the environment, which must be set before

        self.wandb = wandb
        self.name = name
        self.id_file = folder / '.wandb_id'
        options = cfg.logging.wandb
        self._options = {
            'project': options.project,
            'name': options.name or name,
            'group': options.group,
            'dir': str(folder),
            'config': OmegaConf.to_container(cfg, resolve=True),
            'resume': 'allow',
        }
        self.run = self._begin(
            self.id_file.read_text().strip() if self.id_file.exists() else self._new_id()
        )
        self.run.define_metric('updates')
        self.run.define_metric('*', step_metric='updates')

    def _new_id(self) -> str:
        found = f'{self.name}-{secrets.token_hex(4)}'
        self.id_file.write_text(found)
        return found

    def _begin(self, run_id: str) -> Any:
        try:
            run = self.wandb.init(id=run_id, **self._options)
        except Exception as error:  # its error classes differ between versions
            # from the server; such an id cannot be used again
            if 'previously created and deleted' in str(error):
                logger.warning(
                    'Weights & Biases: the run %s was deleted on the server; starting a new one',
                    run_id,
                )
                return self._begin(self._new_id())
            return self._begin_offline(run_id, str(error))
        if run.disabled and not {'WANDB_MODE', 'WANDB_DISABLED'} & os.environ.keys():
            return self._begin_offline(run_id, 'not logged in')
        return run

    def _begin_offline(self, run_id: str, reason: str) -> Any:
        logger.warning(
            'Weights & Biases cannot be reached, the run is stored in %s/wandb (`wandb sync` '
            'uploads it): %s',
            self._options['dir'],
            reason,
        )
        # its service considers the id of a run that failed to start as in use
        self.wandb.teardown()
        return self.wandb.init(id=run_id, mode='offline', **self._options)

    def scalars(self, named: Mapping[str, float], updates: int, epoch: int) -> None:
        """Log a point of each curve."""
        self.run.log({**named, 'updates': updates, 'epoch': epoch})

    def audio(
        self, name: str, wav: torch.Tensor, sample_rate: int, updates: int, epoch: int
    ) -> None:
        """Log a waveform and its spectrogram."""
        image = audio_picture(wav, sample_rate).permute(1, 2, 0).numpy()
        self.run.log(
            {
                f'{name}/audio': self.wandb.Audio(wav.T.numpy(), sample_rate),
                f'{name}/spectrogram': self.wandb.Image(image),
                'updates': updates,
                'epoch': epoch,
            }
        )

    def close(self) -> None:
        """Upload what is left, and mark the run as finished."""
        self.run.finish()
