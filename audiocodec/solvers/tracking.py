"""Where metrics, audio and spectrogram images of a run go besides the log: TensorBoard, and Weights & Biases."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from audiocodec.utils.config import ConfigError


def spectrogram_image(wav: torch.Tensor, n_fft: int = 1024, hop_length: int = 256,
                      floor_db: float = -80.) -> torch.Tensor:
    """A log-magnitude spectrogram as a picture: low frequencies at the bottom, dark is quiet.

    Args:
        wav: float [C, T].
        n_fft: window length, samples.
        hop_length: samples a column.
        floor_db: what is black, relative to a full-scale sine.

    Returns:
        float [3, n_fft // 2 + 1, T // hop_length + 1] in [0, 1].
    """
    mono = wav.mean(0)
    window = torch.hann_window(n_fft, device=wav.device)
    pad = max(0, n_fft - mono.shape[-1])
    spec = torch.stft(torch.nn.functional.pad(mono, (0, pad)), n_fft, hop_length, window=window, return_complex=True)
    level = 20 * torch.log10(spec.abs() / (window.sum() / 2) + 1e-10)
    gray = (1 - level / floor_db).clamp(0, 1).flip(0)
    # Three ramps one after the other: black, violet, orange, pale yellow. Its lightness grows evenly.
    return torch.stack([(1.5 * gray).clamp(0, 1), (2 * gray - 0.7).clamp(0, 1),
                        torch.where(gray < 0.5, gray, (1 - gray)).mul(1.1).add((4 * gray - 3).clamp(0, 1)).clamp(0, 1)])


class Tracker:
    """TensorBoard (always there) and Weights & Biases (an extra), on worker 0.

    Args:
        cfg: the run's configuration, of which `logging` says what is on.
        folder: the experiment's folder; TensorBoard's files go to `tensorboard/` in it.
        name: the experiment's signature, the run's identity in Weights & Biases.

    Raises:
        ConfigError: if Weights & Biases is asked for and not installed.
    """

    def __init__(self, cfg: DictConfig, folder: Path, name: str) -> None:
        self.writer: Any = None
        self.wandb: Any = None
        if cfg.logging.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder / 'tensorboard'))
        if cfg.logging.wandb.enabled:
            if importlib.util.find_spec('wandb') is None:
                raise ConfigError("logging.wandb.enabled=true needs the package wandb: pip install 'audiocodec[wandb]'")
            import wandb

            options = cfg.logging.wandb
            wandb.init(project=options.project, name=options.name or name, group=options.group, id=name,
                       resume='allow', dir=str(folder), config=OmegaConf.to_container(cfg, resolve=True))
            self.wandb = wandb

    def scalars(self, stage: str, metrics: Mapping[str, float], epoch: int) -> None:
        """Send the means of a stage as `stage/metric`."""
        named = {f'{stage}/{key}': value for key, value in metrics.items()}
        if self.writer is not None:
            for key, value in named.items():
                self.writer.add_scalar(key, value, epoch)
            self.writer.flush()
        if self.wandb is not None:
            self.wandb.log({**named, 'epoch': epoch})

    def audio(self, name: str, wav: torch.Tensor, sample_rate: int, epoch: int) -> None:
        """Send a waveform float [C, T] and its spectrogram, as `name`."""
        wav = wav.detach().cpu().float().clamp(-1, 1)
        if self.writer is not None:
            self.writer.add_audio(f'{name}/audio', wav.mean(0, keepdim=True), epoch, sample_rate)
            self.writer.add_image(f'{name}/spectrogram', spectrogram_image(wav), epoch)
        if self.wandb is not None:
            image = spectrogram_image(wav).permute(1, 2, 0).numpy()
            self.wandb.log({f'{name}/audio': self.wandb.Audio(wav.T.numpy(), sample_rate),
                            f'{name}/spectrogram': self.wandb.Image(image)})
