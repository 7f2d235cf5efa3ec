"""ViSQOL, computed by the binary of https://github.com/google/visqol (arXiv 2004.09584)."""

import csv
import os
import subprocess
import tempfile
from pathlib import Path

import soundfile
import torch
from torch.nn import functional as F

from audiocodec.dsp.resample import resample
from audiocodec.metrics.base import Metric, UnscorableError
from audiocodec.metrics.perceptual.visqol import SAMPLE_RATES

# Models that map similarity to quality in audio mode, the best first. A clone of the repository
# contains both.
AUDIO_MODELS = ('tcdaudio14_aacvopus_coresv_svrnsim_n.68_g.01_c1.model', 'libsvm_nu_svr_model.txt')


class ViSQOLBinary(Metric):
    """Mean opinion score (MOS-LQO) predicted by the official ViSQOL binary; 1 to about 4.75.

    The speech mode ends at 5. See `ViSQOL` for the package, which needs no binary.

    Args:
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

    higher_is_better = True
    unit = 'MOS'

    def __init__(
        self,
        bin: str | Path | None,
        mode: str = 'audio',
        model: str | None = None,
        pad_with_silence: bool = False,
        timeout: float = 600.0,
    ) -> None:
        if mode not in SAMPLE_RATES:
            raise ValueError(f'ViSQOL: mode must be one of {", ".join(SAMPLE_RATES)}, got {mode!r}')
        self.mode = mode
        self.folder, self.binary = _find_binary(bin)
        self.model = _find_model(self.folder, mode, model)
        self.sample_rate = SAMPLE_RATES[mode]
        self.padding = self.sample_rate // 2 if pad_with_silence else 0
        self.timeout = timeout

    @property
    def description(self) -> str:
        """See `Metric.description`."""
        model = 'its default model' if self.model is None else self.model.name
        return f'ViSQOL, official binary, {self.mode} mode, {model}, MOS'

    def score(self, estimate: torch.Tensor, reference: torch.Tensor, sample_rate: int) -> float:
        """Return the MOS-LQO, see `Metric.score`."""
        with tempfile.TemporaryDirectory(prefix='visqol_') as folder:
            paths = {}
            for name, wav in (('reference', reference), ('degraded', estimate)):
                paths[name] = Path(folder, f'{name}.wav')
                self._write(paths[name], wav.detach().float().cpu(), sample_rate)
            return self._run(Path(folder), paths['reference'], paths['degraded'])

    def _write(self, path: Path, wav: torch.Tensor, sample_rate: int) -> None:
        """Write a signal [C, T] at the sample rate of the mode; the binary downmixes it to mono."""
        wav = resample(wav, sample_rate, self.sample_rate)
        wav = F.pad(wav, (self.padding, self.padding)).clamp(-0.99, 0.99)
        soundfile.write(path, wav.T.numpy(), self.sample_rate, subtype='PCM_16')

    def _run(self, folder: Path, reference: Path, degraded: Path) -> float:
        """Run the binary on a pair of files."""
        results = folder / 'results.csv'
        command = [str(self.binary), '--reference_file', str(reference)]
        command += ['--degraded_file', str(degraded), '--results_csv', str(results)]
        if self.mode == 'speech':
            command.append('--use_speech_mode')
        if self.model is not None:
            command += ['--similarity_to_quality_model', str(self.model)]
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
            output = (done.stderr or done.stdout).strip()[-500:]
            raise RuntimeError(f'{self.binary}: exit code {done.returncode}: {output}')
        return _read_score(results, self.binary)


def _read_score(path: Path, binary: Path) -> float:
    """Read the table of results; it has no row for a pair that the binary could not compare."""
    with open(path, newline='') as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise UnscorableError('the ViSQOL binary returned no score')
    try:
        return float(rows[0]['moslqo'])
    except (KeyError, TypeError, ValueError) as error:
        raise RuntimeError(
            f'{binary}: no column moslqo in the results: {path.read_text()[:500]!r}'
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
