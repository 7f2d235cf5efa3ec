import sys

import numpy as np
import pytest
import torch

from audiocodec.adversarial import MultiScaleCQTDiscriminator
from audiocodec.adversarial.discriminators import CQTDiscriminator
from audiocodec.dsp.resample import resample

pytest.importorskip('nnAudio')

SMALL = {'filters': 4, 'hop_lengths': [512, 256], 'bins_per_octaves': [4, 6]}


def audio(channels=1, length=4000):
    return torch.randn(3, channels, length, generator=torch.Generator().manual_seed(0))


def constant_q(wav, rate, frequency, bins_per_octave, center):
    """Evaluate the transform at one frequency and sample (Schörkhuber & Klapuri 2010, eq. 1)."""
    length = int(np.ceil(rate / frequency / (2 ** (1 / bins_per_octave) - 1)))
    offset = np.arange(length) - length // 2
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    kernel = window * np.exp(-2j * np.pi * frequency * offset / rate) / window.sum()
    position = center + offset
    inside = (position >= 0) & (position < len(wav))
    return np.sqrt(length) * (kernel[inside] * wav[position[inside]]).sum()


@pytest.mark.parametrize('rate', [16000, 24000, 48000])
def test_tones_have_their_bin_magnitude_and_the_documented_shift(rate):
    discriminator = CQTDiscriminator(sample_rate=rate, bins_per_octave=6, filters=1)
    assert discriminator.n_octaves == (8 if rate == 16000 else 9)
    time = np.arange(rate) / rate
    wide = np.arange(2 * rate) / (2 * rate)
    for octave in range(discriminator.n_octaves):
        index = 6 * octave + 2
        frequency = 32.70 * 2 ** (index / 6)
        if frequency > 0.4 * rate:
            continue
        tone = torch.from_numpy(np.cos(2 * np.pi * frequency * time + 0.3)).float()
        parts = discriminator.spectrum(tone[None, None])[0].double()
        frame = parts.shape[1] // 2
        assert parts[:, frame].norm(dim=0).argmax() == index
        reference = constant_q(
            np.cos(2 * np.pi * frequency * wide + 0.3), 2 * rate, frequency, 6, 256 * frame
        )
        ratio = complex(*parts[:, frame, index]) / reference
        assert abs(ratio) == pytest.approx(1, abs=3e-3)
        # half a sample of its own input per halving of the rate
        halvings = discriminator.n_octaves - 1 - octave
        early = 0.5 * (2**halvings - 1) / (2 * rate)
        assert np.angle(ratio) == pytest.approx(2 * np.pi * frequency * early, abs=3e-3)


def test_audio_is_upsampled_like_any_other():
    wav = audio(2, 501)
    discriminator = CQTDiscriminator(in_channels=2, bins_per_octave=6, filters=1)
    torch.testing.assert_close(discriminator._upsample(wav), resample(wav, 1, 2).flatten(0, 1))


def test_gradient_is_that_of_a_linear_map():
    discriminator = CQTDiscriminator(in_channels=2, bins_per_octave=6, filters=1)
    wav = audio(2, 2000)
    weights = torch.randn(
        discriminator.spectrum(wav).shape, generator=torch.Generator().manual_seed(1)
    )
    (gradient,) = torch.autograd.grad(
        (discriminator.spectrum(wav.requires_grad_()) * weights).sum(), wav
    )
    direction = audio(2, 2000).flip(-1)
    change = (discriminator.spectrum(direction).double() * weights).sum()
    assert (gradient.double() * direction).sum() == pytest.approx(change.item(), rel=1e-4)


def test_channels_are_parts_and_items_are_independent():
    discriminator = MultiScaleCQTDiscriminator(in_channels=2, **SMALL)
    plain = MultiScaleCQTDiscriminator(in_channels=2, channels_last=False, **SMALL)
    plain.load_state_dict(discriminator.state_dict())
    wav = audio(2)
    spectrum = discriminator.discriminators[1].spectrum(wav)
    alone = discriminator.discriminators[1].spectrum(wav[:, 1:])
    assert spectrum.shape == (3, 4, 8000 // 256 + 1, 6 * 9)
    torch.testing.assert_close(spectrum[:, 1::2], alone)
    logits, features = discriminator(wav)
    torch.testing.assert_close(discriminator(wav[1:2])[0], [logit[1:2] for logit in logits])
    torch.testing.assert_close((logits, features), plain(wav))
    assert [maps.shape[-1] for maps in features[1]] == [54, 27, 14, 7, 7]


def test_octaves_have_their_own_first_convolution():
    discriminator = CQTDiscriminator(filters=2)
    before, _ = discriminator(audio())
    with torch.no_grad():
        discriminator.octave_convs[8].conv.weight.mul_(2)
    changed = (discriminator(audio())[0] != before).any(dim=(0, 1, 2))
    # the convolutions reach 48 bins below the octave, in steps of 8
    assert changed.tolist() == [False] * 42 + [True] * 12


def test_transform_is_neither_trained_nor_saved_and_silent(capfd):
    discriminator = MultiScaleCQTDiscriminator(**SMALL)
    saved = discriminator.state_dict().keys()
    assert saved == dict(discriminator.named_parameters()).keys()
    assert not any('transform' in name for name in saved)
    assert capfd.readouterr() == ('', '')


def test_transform_is_float32_under_autocast():
    discriminator = MultiScaleCQTDiscriminator(**SMALL)
    with torch.autocast('cpu', torch.bfloat16):
        logits, _ = discriminator(audio())
        assert discriminator.discriminators[0].spectrum(audio().bfloat16()).dtype == torch.float32
    assert logits[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'hop_lengths': [256]}, 'hop_lengths'),
        ({'hop_lengths': [256, 384]}, 'hop_length=384: expected a multiple of 256'),
        ({'sample_rate': 60}, 'sample_rate=60'),
        ({'n_octaves': 0}, 'n_octaves=0'),
        ({'filters': 0}, 'filters=0'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleCQTDiscriminator(**{**SMALL, **arguments})


def test_too_short_audio_is_refused():
    with pytest.raises(ValueError, match='audio of 511 samples is too short for 9 octaves'):
        MultiScaleCQTDiscriminator(**SMALL)(audio(length=511))
    MultiScaleCQTDiscriminator(**SMALL)(audio(length=512))


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'nnAudio', None)
    with pytest.raises(ValueError, match=r"nnAudio.*pip install 'audiocodec\[cqt\]'"):
        MultiScaleCQTDiscriminator(**SMALL)
