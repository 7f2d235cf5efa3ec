"""The codec that comes with the package: size, rates, latency, and that it codes audio at all."""

import re
import socket

import pytest
import torch

from audiocodec.data import load_source
from audiocodec.data.audio import read_segment
from audiocodec.metrics import MelDistance
from audiocodec.models import CompressionModel, pretrained
from audiocodec.models.description import look_ahead
from audiocodec.models.fingerprint import fingerprint
from audiocodec.run import checkpoint
from audiocodec.solvers import CompressionSolver
from audiocodec.utils import paths

NAME = 'audiocodec/small_24khz'
FILE = pretrained.SHIPPED[NAME]
CARD = FILE.with_suffix('.md').read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def model():
    return CompressionModel.get_pretrained(NAME)


def test_the_file_is_small_and_half_of_what_is_loaded(model):
    assert FILE.stat().st_size <= 3_000_000
    stored = checkpoint.load(FILE)['state']
    assert {value.dtype for value in stored.values()} == {torch.float16}
    loaded = model.state_dict()
    assert {loaded[name].dtype for name in stored} == {torch.float32}
    assert all(torch.equal(loaded[name], value.float()) for name, value in stored.items())


def test_rates_and_latency(model):
    assert (model.sample_rate, model.channels) == (24000, 1)
    assert (model.hop_length, model.frame_rate) == (320, 75)
    assert (model.total_codebooks, model.cardinality) == (8, 1024)
    assert [model.bandwidth_of(count) for count in (1, 2, 4, 8)] == [0.75, 1.5, 3, 6]
    assert look_ahead(model) == model.hop_length - 1  # one frame
    wav = 0.1 * torch.randn(1, 1, 6400, generator=torch.Generator().manual_seed(0))
    changed = wav.clone()
    changed[..., 3200:] = 0
    first, second = (model.encode(each)[0] for each in (wav, changed))
    assert torch.equal(first[..., :10], second[..., :10])
    assert not torch.equal(first, second)


def test_no_network_is_needed(monkeypatch):
    def refuse(*_):
        raise AssertionError('a connection')

    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    expected = fingerprint(CompressionModel.get_pretrained(NAME))
    for name in (NAME, f'//pretrained/{NAME}'):
        assert fingerprint(CompressionSolver.model_from_checkpoint(name)) == expected
    with pytest.raises(ValueError, match=f"did you mean '{NAME}'"):
        CompressionModel.get_pretrained('audiocodec/small_24kz')


@torch.no_grad()
def test_recordings_are_closer_than_silence(model):
    metric = MelDistance()
    scores = []
    for item in load_source(paths.find('dataset/example/evaluate')):
        wav = read_segment(item.path, 0, 24000, model.sample_rate, 1)[None]
        codes, _ = model.encode(wav)
        estimates = [model.decode(codes[:, :count]) for count in (2, 8)] + [0 * wav]
        scores.append([float(metric.score(each[0], wav[0], 24000)) for each in estimates])
    low, high, silence = torch.tensor(scores).mean(0).tolist()
    assert high < 0.5 * silence
    assert high < low < 0.6 * silence


def test_the_card_is_that_of_the_weights(model):
    assert re.search(rf'^\| fingerprint \| `{fingerprint(model)}` \|$', CARD, re.MULTILINE), (
        f'the weights have changed: write the fingerprint {fingerprint(model)} into the card, and '
        'measure its tables anew'
    )
    for heading in ('License', 'Data', 'Training', 'Evaluation'):
        assert f'\n## {heading}\n' in CARD
