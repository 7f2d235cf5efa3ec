import pytest
import torch

from audiocodec.modules import SEANetDecoder, SEANetEncoder
from audiocodec.modules.init import initialize


def std_of_output(module, x):
    with torch.no_grad():
        return module(x).std(-1).mean()


@pytest.mark.parametrize('norm', ['none', 'weight_norm'])
@pytest.mark.parametrize(
    ('network', 'size'), [(SEANetEncoder, (4, 1, 3200)), (SEANetDecoder, (4, 32, 200))]
)
def test_only_lecun_normal_preserves_the_power(norm, network, size):
    x = torch.randn(size, generator=torch.Generator().manual_seed(0))
    stds = {}
    for init in ('default', 'lecun_normal'):
        torch.manual_seed(0)
        stds[init] = std_of_output(
            network(dimension=32, n_filters=8, n_residual_layers=1, norm=norm, init=init), x
        )
    assert 0.2 < stds['lecun_normal'] < 5
    assert stds['default'] < 0.2 * stds['lecun_normal']


@pytest.mark.parametrize(
    'conv', [torch.nn.Conv1d(16, 400, 7), torch.nn.ConvTranspose1d(16, 400, 8, stride=4)]
)
def test_convolved_white_noise_has_unit_variance(conv):
    torch.manual_seed(0)
    initialize(conv, 'lecun_normal')
    with torch.no_grad():
        assert conv(torch.randn(4, 16, 500))[..., 8:-8].var() == pytest.approx(1, rel=0.1)
    assert not conv.bias.any()


def test_convolved_images_of_white_noise_have_unit_variance():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(16, 400, (3, 9), groups=2)
    initialize(conv, 'lecun_normal')
    with torch.no_grad():
        assert conv(torch.randn(2, 16, 12, 40)).var() == pytest.approx(1, rel=0.1)
    assert not conv.bias.any()


@pytest.mark.parametrize('network', ['encoder', 'decoder'])
def test_many_residual_units_need_scaled_branches(network):
    """DAC has twelve, with Snake: the output of `lecun_normal` would saturate its Tanh."""
    kind, size = {
        'encoder': (SEANetEncoder, (2, 1, 4096)),
        'decoder': (SEANetDecoder, (2, 32, 64)),
    }[network]
    x = torch.randn(size, generator=torch.Generator().manual_seed(0))
    stds = {}
    for init in ('lecun_normal', 'scaled_residual'):
        torch.manual_seed(0)
        stds[init] = std_of_output(
            kind(
                dimension=32,
                n_filters=6,
                n_residual_layers=3,
                ratios=(8, 8, 4, 2),
                activation='audiocodec.modules.Snake',
                norm='weight_norm',
                dilation_base=3,
                compress=1,
                init=init,
            ),
            x,
        )
    assert 0.2 < stds['scaled_residual'] < 5
    assert stds['lecun_normal'] > 5 * stds['scaled_residual']


def test_without_biases_the_latents_of_a_deep_encoder_follow_the_signal():
    wav = torch.randn(8, 1, 2048, generator=torch.Generator().manual_seed(0))
    fractions, weights = {}, {}
    for init in ('default', 'zero_bias'):
        torch.manual_seed(0)
        encoder = SEANetEncoder(
            dimension=32, n_filters=6, activation='audiocodec.modules.Snake', init=init
        )
        with torch.no_grad():
            latents = encoder(wav)
        mean = latents.mean((0, 2), keepdim=True)
        fractions[init] = ((latents - mean).square().mean() / latents.square().mean()).item()
        weights[init] = encoder.model[0].conv.conv.weight
    assert fractions['zero_bias'] > 0.5
    assert fractions['default'] < 0.3
    assert weights['zero_bias'].equal(weights['default'])


def test_the_scale_of_branches_follows_their_number():
    """Of two units, the last convolutions have half the power; all others keep it."""
    encoder = SEANetEncoder(
        n_filters=256, ratios=(2, 2), n_residual_layers=1, compress=1, init='scaled_residual'
    )
    for unit in (encoder.model[1], encoder.model[4]):
        first, last = unit.block[1].conv.conv, unit.block[3].conv.conv
        assert first.weight.detach().var() * first.in_channels * 3 == pytest.approx(1, rel=0.05)
        assert last.weight.detach().var() * last.in_channels == pytest.approx(0.5, rel=0.05)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match='lecun_normal'):
        SEANetEncoder(init='xavier')
