import pytest
import torch
from torch import nn

from audiocodec.adversarial import (
    MultiPeriodDiscriminator,
    MultiScaleDiscriminator,
    MultiScaleSTFTDiscriminator,
)
from audiocodec.adversarial.discriminators.base import MultiDiscriminator, layer_activation

SMALL_STFT = {
    'filters': 4,
    'n_ffts': [256, 128],
    'hop_lengths': [64, 32],
    'win_lengths': [256, 128],
}


class Scaled(nn.Module):
    """Multiplies the audio by a factor; its feature map is the audio."""

    def __init__(self, factor, calls):
        super().__init__()
        self.factor = factor
        self.calls = calls

    def forward(self, wav):
        self.calls.append(self.factor)
        return self.factor * wav, [wav]


class Halving(MultiDiscriminator):
    """Halves the audio between consecutive sub-discriminators."""

    def prepare(self, wav, position):
        return wav / 2 if position else wav


def test_sub_discriminators_run_in_order_and_results_keep_their_indices():
    calls = []
    parts = [Scaled(factor, calls) for factor in (1, 10, 100)]
    discriminator = Halving(parts, in_channels=1, order=[2, 0, 1])
    wav = torch.ones(2, 1, 4)
    logits, features = discriminator(wav)
    assert calls == [100, 1, 10]
    assert discriminator.num_discriminators == 3
    assert [logit.mean().item() for logit in logits] == [1 / 2, 10 / 4, 100]
    assert [maps[0].mean().item() for maps in features] == [1 / 2, 1 / 4, 1]


def test_forward_each_computes_one_sub_discriminator_at_a_time():
    calls = []
    discriminator = MultiDiscriminator([Scaled(factor, calls) for factor in (1, 10)], 1)
    outputs = discriminator.forward_each(torch.ones(1, 1, 4))
    assert calls == []
    logits, _ = next(outputs)
    assert calls == [1]
    assert logits.tolist() == [[[1] * 4]]
    logits, _ = next(outputs)
    assert calls == [1, 10]
    assert logits.tolist() == [[[10] * 4]]
    assert next(outputs, None) is None


def test_without_sub_discriminators_it_is_refused():
    with pytest.raises(ValueError, match='MultiDiscriminator needs at least one sub-discriminator'):
        MultiDiscriminator([], 1)


def test_leaky_relu_is_in_place_unless_its_slope_is_negative():
    assert layer_activation('LeakyReLU', None).inplace
    assert layer_activation('LeakyReLU', {'negative_slope': 0.3}).inplace
    assert not layer_activation('LeakyReLU', {'negative_slope': -0.1}).inplace
    assert not layer_activation('LeakyReLU', {'inplace': False}).inplace
    assert layer_activation('ELU', {'alpha': 0.5}).alpha == 0.5


@pytest.mark.parametrize(
    ('cls', 'arguments'),
    [
        (MultiScaleSTFTDiscriminator, SMALL_STFT),
        (MultiPeriodDiscriminator, {'filters': 2, 'max_filters': 16, 'periods': [2, 5]}),
        (MultiScaleDiscriminator, {'filters': 4, 'max_filters': 16}),
        (MultiScaleDiscriminator, {'filters': 4, 'max_filters': 16, 'norm': 'spectral_norm'}),
        (MultiPeriodDiscriminator, {'filters': 2, 'max_filters': 16, 'norm': 'time_group_norm'}),
    ],
    ids=lambda value: getattr(value, '__name__', ''),
)
def test_items_of_a_batch_are_independent(cls, arguments):
    arguments = dict(arguments)
    if cls is MultiScaleDiscriminator and 'norm' in arguments:
        arguments['scale_norms'] = [arguments.pop('norm')]
    torch.manual_seed(0)
    discriminator = cls(in_channels=2, **arguments).eval()
    wav = 0.1 * torch.randn(3, 2, 1601)
    together, _ = discriminator(wav)
    for item in range(3):
        single, _ = discriminator(wav[item : item + 1])
        for logits, logit in zip(together, single):
            torch.testing.assert_close(logits[item : item + 1], logit, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    'cls',
    [MultiScaleSTFTDiscriminator, MultiPeriodDiscriminator, MultiScaleDiscriminator],
)
def test_wrong_channels_are_refused_by_name(cls):
    with pytest.raises(ValueError, match=r'\[B, 1, T\], got \[1, 2, 4000\]'):
        cls(filters=4, max_filters=8)(torch.zeros(1, 2, 4000))
    with pytest.raises(ValueError, match=r'\[B, 2, T\], got \[2, 4000\]'):
        cls(in_channels=2, filters=4, max_filters=8)(torch.zeros(2, 4000))
