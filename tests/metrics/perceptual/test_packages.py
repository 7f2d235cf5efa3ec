"""Metrics of other packages: equal to a direct call, and no score where there can be none."""

import pickle
import sys
import warnings

import numpy as np
import pytest
import torch
from noise import noise
from speech import speech

from audiocodec.metrics import DNSMOS, PESQ, STOI, DistillMOS, ViSQOL, Zimtohrli

SECONDS = 4.0


def pair(rate):
    """Speech with noise, and without."""
    reference = speech(SECONDS, rate)
    return reference + 0.003 * noise(*reference.shape), reference


def arrays(rate):
    return [wav[0].double().numpy() for wav in pair(rate)]


@pytest.mark.parametrize('mode', ['wb', 'nb'])
def test_pesq(mode):
    pesq = pytest.importorskip('pesq')
    rate = {'wb': 16000, 'nb': 8000}[mode]
    estimate, reference = arrays(rate)
    expected = pesq.pesq(rate, reference, estimate, mode)
    assert 1 < expected < 4.6
    assert PESQ(mode).score(*pair(rate), rate) == pytest.approx(expected)
    assert PESQ(mode).description.startswith('PESQ (')


@pytest.mark.parametrize('extended', [False, True])
def test_stoi(extended):
    pystoi = pytest.importorskip('pystoi')
    estimate, reference = arrays(16000)
    expected = pystoi.stoi(reference, estimate, 16000, extended)
    assert 0.3 < expected < 1
    assert STOI(extended).score(*pair(16000), 16000) == pytest.approx(expected)
    assert STOI(extended).description.startswith('ESTOI' if extended else 'STOI')


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['audio', 'speech'])
def test_visqol(mode):
    visqol = pytest.importorskip('visqol')
    rate = {'audio': 48000, 'speech': 16000}[mode]
    api = visqol.VisqolApi()
    api.create(mode=mode, use_lattice_model=True if mode == 'speech' else None)
    estimate, reference = arrays(rate)
    expected = api.measure_from_arrays(reference, estimate, rate).moslqo
    assert 1 < expected < 4.7
    metric = ViSQOL(mode)
    assert metric.score(*pair(rate), rate) == pytest.approx(expected)
    assert f'{mode} mode' in metric.description
    assert 'lattice' in metric.description or mode == 'audio'


@pytest.mark.slow
def test_visqol_resamples_to_the_rate_of_its_mode():
    pytest.importorskip('visqol')
    score = ViSQOL().score(*pair(24000), 24000)
    worse = ViSQOL().score(pair(24000)[0] + 0.1 * noise(1, 96000, seed=3), pair(24000)[1], 24000)
    assert worse < score < 4.6


def test_zimtohrli():
    zimtohrli = pytest.importorskip('zimtohrli')
    estimate, reference = arrays(48000)
    expected = zimtohrli.mos_from_signals(reference, estimate)
    assert 1 < expected < 4.9
    assert Zimtohrli().score(*pair(48000), 48000) == pytest.approx(expected)


@pytest.mark.slow
def test_distillmos():
    pytest.importorskip('torchaudio')
    distillmos = pytest.importorskip('distillmos')
    estimate = pair(16000)[0]
    with torch.no_grad():
        expected = distillmos.ConvTransformerSQAModel().eval()(estimate).item()
    assert DistillMOS().score(*pair(16000), 16000) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize('seconds', [SECONDS, 11.5])
def test_dnsmos(seconds):
    dnsmos = pytest.importorskip('speechmos.dnsmos')
    estimate = speech(seconds, 16000) + 0.01
    expected = dnsmos.run(estimate[0].numpy(), 16000)['ovrl_mos']
    assert DNSMOS().score(estimate, estimate, 16000) == pytest.approx(expected, rel=1e-5)


FACTORIES = [PESQ, STOI, ViSQOL, Zimtohrli, DNSMOS]


@pytest.mark.parametrize('factory', FACTORIES)
def test_silence_and_nothing_have_no_score(factory):
    metric = made(factory)
    wav, silence = 0.1 * noise(1, 24000), torch.zeros(1, 24000)
    assert metric.score_item(silence, wav, 24000).reason == 'the estimate is silent'
    assert metric.score_item(wav, silence, 24000).reason == 'the reference is silent'


@pytest.mark.parametrize(
    ('factory', 'reason'),
    [
        (PESQ, 'shorter than the 0.25 s'),
        (STOI, 'less than 0.4 s of it is within 40 dB'),
        (ViSQOL, 'ViSQOL: '),
        (Zimtohrli, 'shorter than the 0.25 s'),
    ],
)
def test_short_items_have_no_score(factory, reason):
    metric, wav = made(factory), 0.1 * noise(1, 4800)  # 0.2 s
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        item = metric.score_item(0.9 * wav, wav, 24000)
    assert np.isnan(item.value)
    assert reason in item.reason
    assert not item.is_error


@pytest.mark.parametrize('factory', FACTORIES)
def test_metrics_can_be_pickled(factory):
    assert type(pickle.loads(pickle.dumps(made(factory)))) is factory


@pytest.mark.parametrize(
    ('factory', 'package', 'extra'),
    [
        (PESQ, 'pesq', 'metrics'),
        (STOI, 'pystoi', 'metrics'),
        (ViSQOL, 'visqol', 'metrics'),
        (Zimtohrli, 'zimtohrli', 'metrics'),
        (DNSMOS, 'onnxruntime', 'mos'),
        (DistillMOS, 'distillmos', 'mos'),
        (lambda: ViSQOL('speech'), 'ai_edge_litert.interpreter', 'metrics'),
    ],
)
def test_a_missing_package_is_an_error_that_names_the_extra(monkeypatch, factory, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"pip install 'audiocodec\[{extra}\]'"):
        factory()


def test_bad_modes_are_named():
    with pytest.raises(ValueError, match="mode must be one of wb, nb, got 'swb'"):
        PESQ('swb')
    with pytest.raises(ValueError, match="mode must be one of audio, speech, got 'music'"):
        ViSQOL('music')


def made(factory):
    try:
        return factory()
    except ValueError as error:
        pytest.skip(str(error))
