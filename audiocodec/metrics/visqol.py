"""ViSQOL, computed by the binary of https://github.com/google/visqol (arXiv 2004.09584)."""

import csv
import logging
import os
import subprocess
import tempfile
from pathlib import Path

import julius
import soundfile
import torch
from torch.nn import functional as F

from audiocodec.metrics.base import MeanMetric, without_padding
from audiocodec.utils.failures import warn_once

logger = logging.getLogger(__name__)

# Sample rate of the input in each mode of the binary, in Hz.
SAMPLE_RATES = {'audio': 48000, 'speech': 16000}
# Models that map similarity to quality in audio mode, the best first. A clone of the repository
# contains both.
AUDIO_MODELS = ('tcdaudio14_aacvopus_coresv_svrnsim_n.68_g.01_c1.model', 'libsvm_nu_svr_model.txt')


class ViSQOL(MeanMetric):
    """Mean opinion score (MOS) predicted by the official ViSQOL binary.

    Scores range from 1 to about 4.75 (speech mode: 5). The binary runs once per batch. Items
    without a score are left out, with one warning per run.

    Args:
        sample_rate: sample rate of the signals in Hz.
        bin: folder of the installation: a clone of the repository with the compiled binary, which
            contains `bazel-bin/visqol` and `model/`.
        mode: 'audio' (48 kHz, for music and general audio) or 'speech' (16 kHz, with voice activity
            detection).
        model: file in `model/` that maps similarity to quality; None: the best known model in audio
            mode, and the default of the binary in speech mode.
        pad_with_silence: whether to add half a second of silence on both sides, which ViSQOL's
            guidelines recommend for audio that begins or ends abruptly.
        timeout: timeout of a run of the binary in seconds.

    Raises:
        ValueError: unknown mode, or missing folder, binary or model.
    """

    name = 'visqol'
    higher_is_better = True

    def __init__(
        self,
        sample_rate: int,
        bin: str | Path | None,
        mode: str = 'audio',
        model: str | None = None,
        pad_with_silence: bool = False,
        timeout: float = 600.0,
    ) -> None:
        super().__init__()
        if mode not in SAMPLE_RATES:
            raise ValueError(f'ViSQOL: mode must be one of {", ".join(SAMPLE_RATES)}, got {mode!r}')
        self.mode = mode
        self.folder, self.binary = _find_binary(bin)
        self.model = _find_model(self.folder, mode, model)
        self.sample_rate = SAMPLE_RATES[mode]
        self.resample = julius.ResampleFrac(sample_rate, self.sample_rate)
        self.padding = self.sample_rate // 2 if pad_with_silence else 0
        self.timeout = timeout

    @torch.no_grad()
    def measure(
        self, estimate: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Score each item, [B]; NaN for one without a score (see `Metric.measure`)."""
        estimate = estimate.detach().float().cpu()
        reference = reference.detach().float().cpu()
        scores = torch.full((len(reference),), torch.nan, dtype=torch.float64)
        with tempfile.TemporaryDirectory(prefix='visqol_') as folder:
            pairs = {}
            for item, (est, ref) in enumerate(without_padding(estimate, reference, lengths)):
                if ref.shape[-1] > 0:
                    pairs[item] = (
                        Path(folder, f'reference_{item}.wav'),
                        Path(folder, f'degraded_{item}.wav'),
                    )
                    self._write(pairs[item][0], ref[0])
                    self._write(pairs[item][1], est[0])
            by_name = self._run(Path(folder), list(pairs.values()))
        for item, (_, degraded) in pairs.items():
            scores[item] = by_name.get(degraded.name, torch.nan)
        if by_name and len(by_name) < len(pairs):
            warn_once(
                logger,
                f'{self.binary} items',
                f'ViSQOL returned no score for {len(pairs) - len(by_name)} of '
                f'{len(pairs)} items; such items are left out of the mean',
            )
        return scores

    def _write(self, path: Path, wav: torch.Tensor) -> None:
        """Write a signal [C, T] at the sample rate of the mode; the binary downmixes it to mono."""
        wav = F.pad(self.resample(wav), (self.padding, self.padding)).clamp(-0.99, 0.99)
        soundfile.write(path, wav.T.numpy(), self.sample_rate, subtype='PCM_16')

    def _run(self, folder: Path, pairs: list[tuple[Path, Path]]) -> dict[str, float]:
        """Run the binary; return scores by name of the degraded file, empty after a failure."""
        if not pairs:
            return {}
        inputs = folder / 'input.csv'
        results = folder / 'results.csv'
        lines = [
            'reference,degraded',
            *(f'{reference},{degraded}' for reference, degraded in pairs),
        ]
        inputs.write_text('\n'.join(lines) + '\n')
        command = [
            str(self.binary),
            '--batch_input_csv',
            str(inputs),
            '--results_csv',
            str(results),
        ]
        if self.mode == 'speech':
            command.append('--use_speech_mode')
        if self.model is not None:
            command += ['--similarity_to_quality_model', str(self.model)]
        try:
            # The binary searches its default models relative to the working directory.
            done = subprocess.run(
                command,
                cwd=self.folder,
                capture_output=True,
                text=True,
                errors='replace',
                timeout=self.timeout,
                check=False,
            )
            if done.returncode or not results.exists():
                raise RuntimeError(
                    f'exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}'
                )
            return _read_scores(results, [degraded.name for _, degraded in pairs])
        except (OSError, RuntimeError, subprocess.SubprocessError, ValueError) as error:
            warn_once(
                logger,
                f'{self.binary} run',
                f'ViSQOL failed, its score is missing ({self.binary}): {error}',
            )
            return {}


def _read_scores(path: Path, names: list[str]) -> dict[str, float]:
    """Read the table of results.

    It has one row per pair, in order, but none for pairs that the binary could not compare.
    """
    with open(path, newline='') as file:
        rows = list(csv.DictReader(file))
    try:
        # With all rows, their order identifies the pairs; otherwise the file names do.
        if len(rows) != len(names):
            names = [Path(row['degraded']).name for row in rows]
        return {name: float(row['moslqo']) for name, row in zip(names, rows)}
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'no columns degraded and moslqo in the results: {path.read_text()[:500]!r}'
        ) from error


def _find_binary(bin: str | Path | None) -> tuple[Path, Path]:
    """Return the folder of the installation and the binary in it."""
    if not bin:
        raise ValueError(
            f'ViSQOL: bin must be the folder of a ViSQOL installation, got {bin!r}: it contains '
            'bazel-bin/visqol and model/ (build it as described in '
            'https://github.com/google/visqol)'
        )
    folder = Path(bin).expanduser().absolute()
    binary = folder / 'bazel-bin' / 'visqol'
    if not folder.is_dir():
        raise ValueError(
            f'ViSQOL: bin must be the folder of a ViSQOL installation, but {folder} does not exist'
        )
    if not binary.is_file():
        raise ValueError(
            f'ViSQOL: no binary at {binary}: bin must be the folder that contains '
            f'bazel-bin/visqol, got {bin!s}'
        )
    if not os.access(binary, os.X_OK):
        raise ValueError(f'ViSQOL: {binary} is not executable: chmod +x it, or build it again')
    return folder, binary


def _find_model(folder: Path, mode: str, model: str | None) -> Path | None:
    """Return the similarity-to-quality model to pass to the binary, or None for its default."""
    if model is not None:
        path = folder / 'model' / model
        if not path.is_file():
            raise ValueError(
                f'ViSQOL: no model at {path}: model must be the name of a file in the folder '
                f'model/ of the installation, got {model!r}'
            )
        return path
    known = [folder / 'model' / name for name in AUDIO_MODELS] if mode == 'audio' else []
    return next((path for path in known if path.is_file()), None)
