"""Audio files for the tests of the doctor, and the problems that it finds in one."""

import numpy as np
import soundfile

from audiocodec.data.doctor.file import Limits, examine


def noise(seconds=1.0, sample_rate=24000, channels=1, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(
        (round(seconds * sample_rate), channels)
    ).clip(-3, 3)


def write(path, wav, sample_rate=24000, **options):
    soundfile.write(path, wav, sample_rate, **options)
    return str(path)


def kinds(path, limits=None):
    return [problem.kind for problem in examine(str(path), limits or Limits()).problems]


def detail(path, kind):
    (problem,) = [
        problem for problem in examine(str(path), Limits()).problems if problem.kind == kind
    ]
    return problem.detail
