import pytest
import torch

from audiocodec.adversarial import (
    FeatureMatchingLoss,
    MultiScaleSTFTDiscriminator,
    get_criterion,
)
from audiocodec.adversarial.discriminators import STFTDiscriminator

SMALL = {'filters': 4, 'n_ffts': [256, 128], 'hop_lengths': [64, 32], 'win_lengths': [256, 128]}


def test_parameters_of_the_recipe():
    discriminator = MultiScaleSTFTDiscriminator(
        filters=32,
        n_ffts=[1024, 2048, 512, 256, 128],
        hop_lengths=[256, 512, 128, 64, 32],
        win_lengths=[1024, 2048, 512, 256, 128],
        activation_params={'negative_slope': 0.3},
    )
    # Layers with weight_norm have a direction, a magnitude and a bias.
    inner = 3 * (32 * 32 * 27 + 2 * 32) + 32 * 32 * 9 + 2 * 32
    found = sum(parameter.numel() for parameter in discriminator.parameters())
    assert found == 5 * (2 * 32 * 27 + 32 + inner + 32 * 9 + 2) == 472_330


def test_spectrum_is_the_normalized_uncentered_stft_with_parts_as_channels():
    discriminator = STFTDiscriminator(4, in_channels=2, n_fft=64, hop_length=16, win_length=48)
    wav = torch.randn(3, 2, 203)
    spectrum = discriminator.spectrum(wav)
    window = torch.hann_window(48)
    stft = (
        torch.stft(wav.view(6, -1), 64, 16, 48, window, center=False, return_complex=True)
        / window.norm()
    )
    stft = stft.view(3, 2, 33, -1).transpose(2, 3)
    assert spectrum.shape == (3, 4, (203 - 64) // 16 + 1, 33)
    torch.testing.assert_close(spectrum, torch.cat([stft.real, stft.imag], dim=1))
    unnormalized = STFTDiscriminator(
        4, in_channels=2, n_fft=64, hop_length=16, win_length=48, normalized=False
    ).spectrum(wav)
    torch.testing.assert_close(unnormalized, spectrum * window.norm())


@pytest.mark.parametrize('channels', [1, 2])
def test_memory_format_changes_neither_values_nor_gradients(channels):
    outputs = []
    for channels_last in (True, False):
        torch.manual_seed(0)
        discriminator = MultiScaleSTFTDiscriminator(
            in_channels=channels, channels_last=channels_last, **SMALL
        )
        wav = (0.1 * torch.randn(2, channels, 1000)).requires_grad_()
        logits, features = discriminator(wav)
        layout = discriminator.discriminators[0].spectrum(wav)
        assert layout.is_contiguous(memory_format=torch.channels_last) == channels_last
        gradients = torch.autograd.grad(
            sum(logit.square().mean() for logit in logits), [wav, *discriminator.parameters()]
        )
        outputs.append([*logits, *features[0], *gradients])
    for fast, plain in zip(*outputs):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-6)


def test_sep_channels_classifies_each_channel_as_an_item():
    torch.manual_seed(0)
    stereo = MultiScaleSTFTDiscriminator(in_channels=2, sep_channels=True, **SMALL)
    mono = MultiScaleSTFTDiscriminator(in_channels=1, **SMALL)
    mono.load_state_dict(stereo.state_dict())
    wav = torch.randn(2, 2, 600)
    for logits, left in zip(stereo(wav)[0], mono(wav[:, :1])[0]):
        assert logits.shape[0] == 4
        torch.testing.assert_close(logits[::2], left)


def test_largest_maps_are_computed_first_and_returned_in_the_order_of_the_scales():
    torch.manual_seed(0)
    n_ffts = [64, 128, 32]
    discriminator = MultiScaleSTFTDiscriminator(
        filters=2, n_ffts=n_ffts, hop_lengths=[16, 32, 8], win_lengths=n_ffts
    )
    wav = torch.randn(2, 1, 1000)
    logits, features = discriminator(wav)
    assert [maps[0].shape[-1] for maps in features] == [33, 65, 17]
    expected = [scale(wav)[0] for scale in discriminator.discriminators]
    sizes = []
    for index, (logit, maps) in zip(
        discriminator.order, discriminator.forward_each(wav), strict=True
    ):
        torch.testing.assert_close(logit, expected[index], rtol=0, atol=0)
        torch.testing.assert_close(logits[index], expected[index], rtol=0, atol=0)
        sizes.append(maps[0].numel())
    assert sizes == sorted(set(sizes), reverse=True)


def test_stft_stays_in_float32_under_autocast():
    torch.manual_seed(0)
    discriminator = MultiScaleSTFTDiscriminator(**SMALL)
    wav = 0.1 * torch.randn(2, 1, 1000)
    plain, _ = discriminator(wav)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert discriminator.discriminators[0].spectrum(wav.bfloat16()).dtype == torch.float32
        logits, features = discriminator(wav)
    assert features[0][0].dtype == torch.bfloat16
    difference = (logits[0].float() - plain[0].detach()).norm()
    assert difference < 0.05 * plain[0].norm()


def test_float64_is_kept():
    discriminator = MultiScaleSTFTDiscriminator(**SMALL).double()
    wav = torch.randn(1, 1, 400, dtype=torch.float64)
    logits, features = discriminator(wav)
    assert logits[0].dtype == torch.float64
    assert get_criterion('hinge').real(logits[0]).dtype == torch.float64
    assert FeatureMatchingLoss()(features[0], features[0]).dtype == torch.float64


def test_too_short_audio_is_refused():
    discriminator = MultiScaleSTFTDiscriminator(**SMALL)
    logits, _ = discriminator(torch.randn(1, 1, 256))
    assert all(logit.isfinite().all() for logit in logits)
    with pytest.raises(
        ValueError, match='audio of 255 samples is shorter than an STFT frame of n_fft=256'
    ):
        discriminator(torch.randn(1, 1, 255))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'n_ffts': [512]}, 'one of each per scale'),
        ({'n_ffts': [], 'hop_lengths': [], 'win_lengths': []}, 'at least one'),
        ({'win_lengths': [2048, 2048, 512]}, 'win_length=2048 .* n_fft=1024'),
        ({'kernel_size': [3]}, r'kernel_size=\[3\]: expected two integers'),
        ({'filters': 0}, 'filters=0'),
        ({'norm': 'layer'}, "norm='layer' is unknown"),
        ({'activation': 'Leaky'}, "activation='Leaky'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleSTFTDiscriminator(**arguments)
