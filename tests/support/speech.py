"""Recorded speech of the example data set."""

from functools import lru_cache
from pathlib import Path

import torch

from audiocodec.data import convert_audio, read_audio

FILE = Path(__file__).parents[2] / 'dataset/example/evaluate/speech_en_librispeech_001.flac'


@lru_cache
def speech(seconds, sample_rate):
    """Return speech [1, T], repeated if it is shorter."""
    wav, rate = read_audio(FILE)
    wav = convert_audio(wav, rate, sample_rate, 1)
    samples = round(seconds * sample_rate)
    return torch.cat([wav] * -(-samples // wav.shape[-1]), -1)[:, :samples]
