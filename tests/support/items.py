"""A tiny codec at 8 kHz, and a data set of a few recordings, for the tests of evaluation."""

import torch
from noise import noise
from tiny_codecs import tiny_codec

from audiocodec.data import AudioDataset, load_source, write_audio
from audiocodec.models import CompressionModel
from audiocodec.utils import config


def tiny_model(seed=0, **options) -> CompressionModel:
    """Return a codec of 3 codebooks with 8 entries: 0.15, 0.3 and 0.45 kbps."""
    torch.manual_seed(seed)
    return config.build(tiny_codec(kmeans_init=False, **options)).eval()


def write_items(folder, seconds=(1.0, 0.5, 2.3), sample_rate=8000, channels=1):
    """Write recordings of the given durations."""
    for number, duration in enumerate(seconds):
        wav = 0.1 * noise(channels, round(duration * sample_rate), seed=number)
        write_audio(folder / f'item_{number}.wav', wav, sample_rate)
    return folder


def dataset_of(folder, sample_rate=8000, channels=1, **options):
    options = {'pad': False, 'return_info': True, 'shuffle': False, **options}
    return AudioDataset(load_source(folder), sample_rate, channels, **options)
