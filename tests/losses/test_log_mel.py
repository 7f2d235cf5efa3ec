"""The multi-scale log mel loss equals its definition, with the filters of librosa."""

import pytest
import torch

from audiocodec.dsp.spectra import slaney_filters
from audiocodec.losses import MultiScaleLogMelLoss


def wavs(seed=0, samples=3000):
    torch.manual_seed(seed)
    time = torch.arange(samples) / 24000
    tone = torch.sin(2 * torch.pi * 440 * time) * 0.3
    return tone + 0.01 * torch.randn(2, 1, samples), tone.expand(2, 1, samples).contiguous()


def definition(estimate, reference, sample_rate, sizes, bands, floor=1e-5):
    total = 0.0
    for n_fft, n_mels in zip(sizes, bands):
        mels = []
        for wav in (estimate, reference):
            spectrum = torch.stft(
                wav.flatten(0, 1),
                n_fft,
                n_fft // 4,
                window=torch.hann_window(n_fft),
                return_complex=True,
            )
            mel = slaney_filters(n_fft, sample_rate, n_mels, 0.0, sample_rate / 2).t()
            mels.append((mel @ spectrum.abs()).clamp(min=floor).log10())
        total += (mels[0] - mels[1]).abs().mean()
    return total


def test_it_equals_its_definition_and_its_gradient():
    estimate, reference = wavs()
    loss = MultiScaleLogMelLoss(24000)
    ours = estimate.clone().requires_grad_()
    theirs = estimate.clone().requires_grad_()
    value = loss(ours, reference)
    sizes, bands = [2**i for i in range(5, 12)], [5 * 2**i for i in range(7)]
    expected = definition(theirs, reference, 24000, sizes, bands)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)


def test_filters_equal_those_of_librosa():
    librosa = pytest.importorskip('librosa')
    for n_fft, n_mels, rate in ((2048, 320, 44100), (256, 40, 24000), (32, 5, 16000)):
        theirs = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels)
        ours = slaney_filters(n_fft, rate, n_mels, 0.0, rate / 2)
        torch.testing.assert_close(ours.t(), torch.from_numpy(theirs), rtol=1e-5, atol=1e-8)


def test_filters_have_the_area_of_two_hertz_per_hertz():
    filters = slaney_filters(2048, 16000, 10, 0.0, 8000.0)
    torch.testing.assert_close(filters.sum(0) * 16000 / 2048, torch.ones(10), rtol=2e-2, atol=0)


def test_silence_has_a_finite_gradient():
    wav = torch.zeros(1, 1, 4000, requires_grad=True)
    MultiScaleLogMelLoss(16000)(wav, torch.zeros(1, 1, 4000)).backward()
    assert torch.equal(wav.grad, torch.zeros_like(wav))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'n_ffts': [64], 'n_mels': [5, 10]}, 'must have the same length'),
        ({'n_ffts': [2], 'n_mels': [5]}, r'n_ffts=\[2\]'),
        ({'floor_level': 0.0}, 'floor_level must be positive'),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleLogMelLoss(16000, **arguments)
