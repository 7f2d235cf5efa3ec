import pytest
import torch

from audiocodec.losses import MultiScaleLogMelLoss
from audiocodec.losses.log_mel import slaney_filters


def by_definition(estimate, reference, sample_rate, sizes, bands):
    total = 0.0
    for size, n_mels in zip(sizes, bands):
        logs = []
        for wav in (estimate, reference):
            spectrum = torch.stft(
                wav.flatten(0, 1),
                size,
                size // 4,
                window=torch.hann_window(size),
                return_complex=True,
            )
            mel = spectrum.abs().transpose(1, 2) @ slaney_filters(size, sample_rate, n_mels)
            logs.append(mel.clamp(min=1e-5).log10())
        total = total + (logs[0] - logs[1]).abs().mean()
    return total


def test_value_and_gradient_follow_the_definition():
    sizes, bands = (32, 256), (5, 40)
    estimate = torch.randn(2, 2, 700).mul_(0.1).requires_grad_()
    reference = torch.randn(2, 2, 700) * 0.1
    loss = MultiScaleLogMelLoss(16000, sizes, bands)(estimate, reference)
    expected = by_definition(estimate, reference, 16000, sizes, bands)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    ours, theirs = (torch.autograd.grad(value, estimate)[0] for value in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_silence_has_a_finite_gradient():
    estimate = torch.zeros(1, 1, 4096, requires_grad=True)
    loss = MultiScaleLogMelLoss(44100)(estimate, torch.zeros(1, 1, 4096))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(estimate.grad, torch.zeros(1, 1, 4096))


@pytest.mark.parametrize(('sample_rate', 'size', 'bands'), [(44100, 2048, 320), (1600, 32, 5)])
def test_filters_equal_those_of_librosa(sample_rate, size, bands):
    librosa = pytest.importorskip('librosa')
    theirs = librosa.filters.mel(sr=sample_rate, n_fft=size, n_mels=bands)
    torch.testing.assert_close(
        slaney_filters(size, sample_rate, bands), torch.from_numpy(theirs).t(), rtol=1e-5, atol=1e-8
    )


def test_filters_have_unit_area():
    filters = slaney_filters(2048, 44100, 20)
    torch.testing.assert_close(filters.sum(0) * 44100 / 2048, torch.ones(20), rtol=0.05, atol=0)


def test_invalid_sizes_are_refused():
    with pytest.raises(ValueError, match='one entry per scale'):
        MultiScaleLogMelLoss(16000, (32,), (5, 10))
    with pytest.raises(ValueError, match='multiples of 4'):
        MultiScaleLogMelLoss(16000, (30,), (5,))
    with pytest.raises(ValueError, match='floor_level must be positive'):
        MultiScaleLogMelLoss(16000, (32,), (5,), floor_level=0)
