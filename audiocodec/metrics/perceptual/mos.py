"""Mean opinion scores of speech predicted without the reference: DistillMOS and DNSMOS."""

import contextlib
import importlib.util
import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiocodec.metrics.base import Metric
from audiocodec.metrics.perceptual.mono import mono
from audiocodec.utils.errors import require

SAMPLE_RATE = 16000  # Hz
_SECONDS = 9.01  # of a window of DNSMOS
_DNSMOS_MAP = (-0.06766283, 1.11546468, 0.04602535)  # raw output to MOS, highest power first


class DistillMOS(Metric):
    """Mean opinion score of speech without the reference, by DistillMOS; 1 to 5.

    Stahl and Gamper, arXiv 2502.05356. Needs the extra `mos`, which installs torchaudio.

    Raises:
        ValueError: a package is not installed.
    """

    higher_is_better = True
    unit = 'MOS'

    def __init__(self) -> None:
        require('DistillMOS', 'mos', 'torchaudio', 'distillmos')

    def score(self, estimate: torch.Tensor, reference: torch.Tensor, sample_rate: int) -> float:
        """Return the score, see `Metric.score`."""
        est, _ = mono(estimate, reference, sample_rate, SAMPLE_RATE)
        return float(_distillmos()(torch.from_numpy(est).float()[None]))


class DNSMOS(Metric):
    """Overall mean opinion score of speech without the reference, by DNSMOS P.835; 1 to 5.

    Reddy et al., arXiv 2110.01763. Needs the extra `mos`. The network sees windows of 9 s, one
    every second; shorter audio is repeated.

    Raises:
        ValueError: a package is not installed.
    """

    higher_is_better = True
    unit = 'MOS'

    def __init__(self) -> None:
        require('DNSMOS', 'mos', 'onnxruntime')
        _dnsmos_file()

    def score(self, estimate: torch.Tensor, reference: torch.Tensor, sample_rate: int) -> float:
        """Return the score, see `Metric.score`."""
        est, _ = mono(estimate, reference, sample_rate, SAMPLE_RATE)
        samples = int(_SECONDS * SAMPLE_RATE)
        while len(est) < samples:  # doubled, as in the published script
            est = np.append(est, est)
        windows = range(int(len(est) // SAMPLE_RATE - _SECONDS) + 1)
        starts = [start * SAMPLE_RATE for start in windows]
        audio = np.clip(est, -1, 1).astype(np.float32)
        scores = [
            _dnsmos().run(None, {'input_1': audio[None, start : start + samples]})[0][0][2]
            for start in starts
        ]
        return float(np.polyval(_DNSMOS_MAP, np.array(scores)).mean())


@lru_cache
def _distillmos() -> Any:
    import distillmos

    with contextlib.redirect_stdout(io.StringIO()):  # it prints the path of its weights
        return distillmos.ConvTransformerSQAModel().eval().requires_grad_(False)


def _dnsmos_file() -> Path:
    """Return the network in the package `speechmos`, without importing it.

    It imports librosa, which it neither declares nor needs for this score.
    """
    spec = importlib.util.find_spec('speechmos')
    if spec is None or spec.origin is None:
        raise ValueError("DNSMOS needs speechmos: pip install 'audiocodec[mos]'")
    return Path(spec.origin).parent / 'dnsmos_models' / 'sig_bak_ovr.onnx'


@lru_cache
def _dnsmos() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(
        str(_dnsmos_file()), options, providers=['CPUExecutionProvider']
    )
