import pytest
import torch

from audiocodec.adversarial import MultiPeriodDiscriminator
from audiocodec.adversarial.discriminators import PeriodDiscriminator


def test_rows_are_samples_one_period_apart():
    discriminator = PeriodDiscriminator(3, filters=2, n_layers=1, kernel_sizes=[1, 1])
    wav = torch.randn(1, 1, 12)
    logits, _ = discriminator(wav)
    assert logits.shape == (1, 1, 4, 3)
    changed = wav.clone()
    changed[..., 7] += 1  # row 2, phase 1
    different = discriminator(changed)[0] != logits
    assert different.nonzero().tolist() == [[0, 0, 2, 1]]


def test_phases_share_their_weights():
    discriminator = PeriodDiscriminator(3, filters=2)
    wav = torch.randn(2, 1, 60)
    logits, _ = discriminator(wav)
    shifted, _ = discriminator(wav.roll(1, dims=-1))
    torch.testing.assert_close(shifted[..., 1:], logits[..., :-1])


def test_audio_is_padded_by_reflection():
    discriminator = PeriodDiscriminator(5, filters=2)
    wav = torch.randn(1, 1, 48)
    padded = torch.cat([wav, wav[..., [46, 45]]], dim=-1)
    assert torch.equal(discriminator(wav)[0], discriminator(padded)[0])


def test_filters_strides_and_feature_maps_follow_the_arguments():
    discriminator = PeriodDiscriminator(
        2, in_channels=2, out_channels=3, n_layers=3, filters=4, filters_scale=2, max_filters=20
    )
    convs = [conv.conv for conv in discriminator.convs]
    assert [conv.out_channels for conv in convs] == [8, 16, 20]
    assert [conv.stride for conv in convs] == [(3, 1), (3, 1), (1, 1)]
    logits, features = discriminator(torch.randn(1, 2, 180))
    assert [maps.shape for maps in features] == [
        (1, 8, 30, 2),
        (1, 16, 10, 2),
        (1, 20, 10, 2),
        (1, 3, 10, 2),
    ]
    assert features[-1] is logits


def test_negative_slopes_of_leaky_relu_have_gradients():
    discriminator = MultiPeriodDiscriminator(
        filters=2, max_filters=8, periods=[2], activation_params={'negative_slope': -0.1}
    )
    wav = torch.randn(1, 1, 400, requires_grad=True)
    discriminator(wav)[0][0].sum().backward()
    assert wav.grad.abs().sum() > 0


def test_too_short_audio_is_refused():
    discriminator = MultiPeriodDiscriminator(filters=4, max_filters=8, periods=[2, 11])
    logits, _ = discriminator(torch.randn(1, 1, 6))
    assert all(logit.isfinite().all() for logit in logits)
    with pytest.raises(ValueError, match='audio of 5 samples is too short for period=11'):
        discriminator(torch.randn(1, 1, 5))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'periods': []}, 'at least one'),
        ({'periods': [0]}, 'period=0'),
        ({'kernel_sizes': [5]}, r'kernel_sizes=\[5\]: expected two sizes'),
        ({'n_layers': 0}, 'n_layers=0'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiPeriodDiscriminator(**arguments)
